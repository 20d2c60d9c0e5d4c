"""How fast layer masking is: forward passes, explainers, memory and growth, all in one run.

python -m benchmarks.speed                  # everything, on the CPU
python -m benchmarks.speed --quick          # a small part of it
python -m benchmarks.speed --device cuda
"""
