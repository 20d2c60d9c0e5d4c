"""Measures of explanations, one pixel at a time. Maps and regions are lists of lists of one image."""


def cells(grid):
    return [(i, j) for i in range(len(grid)) for j in range(len(grid[0]))]


def top(grid, count):
    ranked = sorted((grid[i][j] for i, j in cells(grid)), reverse=True)
    if count >= len(ranked):
        return set(cells(grid))
    return {(i, j) for i, j in cells(grid) if grid[i][j] > ranked[count]}


def inside(region):
    return {(i, j) for i, j in cells(region) if region[i][j]}


def energy_pointing_game(grid, region):
    total = sum(max(grid[i][j], 0) for i, j in cells(grid))
    return sum(max(grid[i][j], 0) for i, j in inside(region)) / total if total else 0.0


def top_iou(grid, region, share):
    kept, truth = top(grid, int(share * len(cells(grid)) + 1e-9)), inside(region)
    return len(kept & truth) / len(kept | truth) if kept | truth else 0.0


def bbox(grid, region):
    truth = inside(region)
    return len(top(grid, len(truth)) & truth) / len(truth) if truth else 0.0


def mask_l1(grid, region):
    values = [grid[i][j] for i, j in cells(grid)]
    low, high = min(values), max(values)
    total = 0.0
    for i, j in cells(grid):
        spread = (grid[i][j] - low) / (high - low) if high > low else 0.0
        total += abs(spread - bool(region[i][j]))
    return total / len(values)


def curve(forward, image, grid, steps, is_insertion):
    """Scores while pixels appear or disappear; `forward` takes an image and a set of visible pixels."""
    order = sorted(cells(grid), key=lambda at: (-grid[at[0]][at[1]], at))
    scores = []
    for step in range(steps + 1):
        changed = set(order[: step * len(order) // steps])
        scores.append(forward(image, changed if is_insertion else set(order) - changed))
    return scores
