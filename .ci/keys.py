"""Checks that the last line of a command has the keys that everybody relies on, and shows it."""

import json
import sys

KEYS = {
    "demo": "answer model engine gateway_peer serving_peer signature_verified receipt_verified "
    "tokens ttft_ms total_ms",
    "kernel": "ask_per_s crash_to_answer_p50_ms restarts rss_growth_kb sim_seeds sim_hangs "
    "sim_late_asks",
    "store": "writers grouped_tps single_tps ratio p99_ms kills powercuts acked acked_lost corrupt",
    "envelope": "signature_ed25519_per_s verify_ed25519_per_s verify_secp256k1_per_s "
    "reject_audience_per_s attacks attacks_refused",
    "p2p": "ttft_local_p50_ms ttft_routed_p50_ms extra_p50_ms extra_total_ratio loop_lag_p99_ms "
    "churned churned_ok silent_sockets honest_dials honest_ok window_abuse_rss_mb pubsub_crashes",
    "http": "extra_ttft_p50_ms extra_total_ratio idle_streams idle_streams_mb status_command_s "
    "help_command_s",
    "inference": "rows ratios ratios_by_load openvino_engine_ratio int8_ratio_batch1 "
    "bandwidth_share_batch1 overload_goodput_ratio overload_late_work prefix_speedup "
    "adapters_ratio",
    "exact": "models prompts continuations logits_bit_equal tokens_equal in_batch "
    "in_batch_bit_equal cost_ratio_1 cost_ratio_4 cost_ratio_16 numeric_class",
    "router": "routes prompts accuracy abstained wrong p50_ms model",
    "faults": "disk_full_not_ready_s disk_full_recovered_s lock_stall_ms overload_goodput_ratio "
    "overload_p99_ms shed_p99_ms drains drained_whole worker_stopped_restart_s acked_lost",
}

last = sys.stdin.read().splitlines()[-1]
found = json.loads(last)
print(last)
missing = [key for key in KEYS[sys.argv[1]].split() if key not in found]
if missing:
    sys.exit(f"{sys.argv[1]}: {', '.join(missing)} missing")
