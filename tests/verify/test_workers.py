import sys

from nanbeige_core.verify.workers import WorkerLost, WorkerPool

SERVE = """
import json, os, sys, time
print('{"ready": true}', flush=True)
for line in sys.stdin:
    what = json.loads(line)["do"]
    if what == "hang": time.sleep(60)
    if what == "die": os._exit(3)
    print(json.dumps({"did": what}), flush=True)
"""


def test_a_hanging_or_dying_worker_costs_only_its_own_request() -> None:
    with WorkerPool([sys.executable, "-c", SERVE], workers=2) as pool:
        replies = pool.map([{"do": what} for what in ("a", "hang", "die", "b")], seconds=1.0)
    assert replies[0] == {"did": "a"}
    assert replies[3] == {"did": "b"}
    assert all(isinstance(reply, WorkerLost) for reply in replies[1:3])


def test_a_command_that_never_becomes_ready_is_reported() -> None:
    with WorkerPool([sys.executable, "-c", "raise SystemExit(1)"], workers=1) as pool:
        (reply,) = pool.map([{}], seconds=1.0)
    assert isinstance(reply, WorkerLost)
    assert "did not start" in reply.reason
