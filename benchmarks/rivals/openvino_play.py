"""Plays requests on OpenVINO GenAI, in this process; run by the Python of its own environment.

Arguments: the exported model, and the directory with the tokenizer.  A line of JSON comes for each
play, and one goes back with what was seen of each answer, see `benchmarks.contestants.InProcess`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai  # type: ignore[import-untyped]
from tokenizers import Tokenizer

exported, model = sys.argv[1:]
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print must not end up between our lines
scheduler = openvino_genai.SchedulerConfig()
scheduler.cache_size = 1  # GB
scheduler.max_num_seqs = 16
scheduler.dynamic_split_fuse = True
pipeline = openvino_genai.ContinuousBatchingPipeline(exported, scheduler, "CPU")
tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
numbers = iter(range(10**9))


def play(arrivals: list[tuple[float, str]], new_tokens: int) -> list[tuple[float, list[float]]]:
    config = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True)
    config.do_sample, config.temperature, config.rng_seed = True, 1.0, 1
    config.set_eos_token_id(0)  # our models have none, and it insists on one
    prompts = [np.array([tokenizer.encode(text).ids], np.int64) for _, text in arrivals]
    waiting = list(zip(arrivals, prompts, strict=True))
    running: list[tuple[Any, list[float]]] = []
    seen: list[tuple[float, list[float]]] = []
    begun = time.perf_counter()
    while waiting or running:
        now = time.perf_counter() - begun
        while waiting and waiting[0][0][0] <= now:
            (due, _), ids = waiting.pop(0)
            handle = pipeline.add_request(next(numbers), openvino.Tensor(ids), config)
            seen.append((due, []))
            running.append((handle, seen[-1][1]))
        if not running:
            time.sleep(0.0005)
            continue
        pipeline.step()
        now = time.perf_counter() - begun
        for handle, times in running:
            while handle.can_read():
                for output in handle.read().values():
                    times.extend(now for _ in output.generated_ids)
        running = [one for one in running if len(one[1]) < new_tokens]
    return seen


print("ready", file=out, flush=True)
for line in sys.stdin:
    print(json.dumps(play(**json.loads(line))), file=out, flush=True)
