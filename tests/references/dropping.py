"""Token dropping the obvious way: one image at a time, visible tokens picked out, blocks run on the shorter sequence."""

import torch


def attention(q, k, v, visible, bias=None):
    """Softmax attention of every query to the visible keys of its image: ``(N, heads, L, C)``, bool ``(N, L)``."""
    result = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for n in range(q.shape[0]):
        if visible[n].any():
            keys, values = k[n][:, visible[n]], v[n][:, visible[n]]
            scores = q[n] @ keys.transpose(-2, -1) / q.shape[-1] ** 0.5
            scores = scores if bias is None else scores + bias[..., visible[n]]
            result[n] = scores.softmax(-1) @ values
    return result


def torchvision_vit(model, x, visible):
    """Logits of torchvision's ``VisionTransformer``; bool ``(N, tokens)``."""
    outputs = []
    for image, seen in zip(x, visible, strict=True):
        tokens = model.conv_proj(image[None]).flatten(2).transpose(1, 2) + model.encoder.pos_embedding[:, 1:]
        sequence = torch.cat([model.class_token + model.encoder.pos_embedding[:, :1], tokens[:, seen]], 1)
        outputs.append(model.heads(model.encoder.ln(model.encoder.layers(sequence))[:, 0]))
    return torch.cat(outputs)


def timm_vit(model, x, visible):
    """Logits of timm's ``VisionTransformer`` with a class token, register tokens or none; bool ``(N, tokens)``."""
    outputs, prefix = [], model.num_prefix_tokens
    for image, seen in zip(x, visible, strict=True):
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
        sequence = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, seen]], 1)
        outputs.append(model.forward_head(model.norm(model.blocks(sequence))))
    return torch.cat(outputs)
