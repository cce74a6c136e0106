"""The kinds of faults: each breaks one run of one stage, lets it be gone on with, and says what became of it."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.artifacts.store import CONTROL
from nanbeige_core.errors import ArtifactError, StageError
from nanbeige_core.faults.clock import start_with_jump
from nanbeige_core.faults.laboratory import Laboratory, Trial, Watch
from nanbeige_core.faults.object_storage import BUCKET, ObjectStorage, rclone
from nanbeige_core.faults.results import MENDED, MISSED, SKIPPED
from nanbeige_core.launch.prefork import ForkedWorker

_TWO_DAYS = 48 * 3600.0
_MOST_KILLS = 4
REMEDIES = ("run the same command again", "nanbeige run --from", "nanbeige run --only", "Run the same command again")


Kind = Callable[[Laboratory, str, random.Random], str | list[str]]
"""Breaks the making of a stage once or several times and returns what became of each fault."""


def _killed_by(number: signal.Signals) -> Kind:
    """Return the kind that kills a stage's worker up to four times, each attempt going on where the last one ended."""

    def fault(laboratory: Laboratory, stage: str, rng: random.Random) -> list[str]:
        trial = laboratory.trial(stage)
        return _broken_again_and_again(laboratory, trial, rng, lambda: _kill_worker(laboratory, trial, rng, number))

    return fault


def _kill_worker(laboratory: Laboratory, trial: Trial, rng: random.Random, number: signal.Signals) -> str | None:
    watch = Watch()
    moment = rng.uniform(0, laboratory.seconds(trial.stage))

    def act(worker: ForkedWorker) -> None:
        time.sleep(moment)
        watch.look(worker.pid)
        worker.send_signal(number)

    words = "was stopped" if number == signal.SIGTERM else ""
    problem = _broken(laboratory, trial, lambda: laboratory.make(trial, act), words)
    return "; ".join(f"left {name}" for name in watch.orphans()) or problem


def _run_killed(laboratory: Laboratory, stage: str, rng: random.Random) -> list[str]:
    """Kill the run itself, half of the times near its end: while it seals and publishes what the worker made."""
    trial = laboratory.trial(stage)

    def kill() -> str | None:
        watch = Watch()
        moment = _work_or_end(laboratory.seconds(stage), rng)
        with laboratory.reader(trial) as reader:
            run = laboratory.start_run(trial)
            run.join(moment)
            watch.look(run.pid)
            missed = run.exitcode is not None
            run.kill()
            run.join()
        if left := watch.orphans():
            return "; ".join(f"left {name}" for name in left)
        return None if missed else reader.problem

    return _broken_again_and_again(laboratory, trial, rng, kill)


def _resume_state_cut(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Kill the worker and truncate a file of what it left; one that left nothing was not hit."""
    trial = laboratory.trial(stage)
    truncated: list[str] = []
    moment = rng.uniform(0.3, 1) * laboratory.seconds(stage)

    def act(worker: ForkedWorker) -> None:
        time.sleep(moment)
        worker.send_signal(signal.SIGKILL)

    def break_it() -> None:
        laboratory.make(trial, act)

    def cut() -> None:
        fingerprint = laboratory.planned(trial.store, stage).fingerprint
        work = trial.store.work_directory(stage, fingerprint)
        files = sorted(path for path in work.rglob("*") if path.is_file() and CONTROL not in path.parts)
        if files:
            path = rng.choice(files)
            times = path.stat()
            os.truncate(path, rng.randrange(max(times.st_size, 1)))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk's damage leaves a file's times
            truncated.append(path.name)

    end = _broken_then_mended(laboratory, trial, break_it, between=cut)
    return f"{MISSED}; {end}" if end == MENDED and not truncated else end


def _artifact_cut(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Truncate a file of the finished artifact: it is no longer served, and is made again."""
    trial = laboratory.trial(stage)
    laboratory.copy(stage, trial.store)
    manifest = laboratory.manifest(trial.store, stage)
    folder = trial.store.local_path(manifest)
    path = folder / rng.choice([name for name, entry in sorted(manifest.files.items()) if entry.bytes])
    os.truncate(path, rng.randrange(path.stat().st_size))
    return _made_again(laboratory, trial)


def _manifest_cut(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Truncate a manifest, or overwrite a stretch of it."""
    trial = laboratory.trial(stage)
    laboratory.copy(stage, trial.store)
    path = trial.store.local_path(laboratory.manifest(trial.store, stage)) / MANIFEST_NAME
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    path.write_bytes(content[:at] if rng.random() < 0.5 else content[:at] + rng.randbytes(64) + content[at + 64 :])
    return _made_again(laboratory, trial)


def _bytes_flipped(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Flip a byte of a finished artifact without changing its size: `verify` names the file."""
    trial = laboratory.trial(stage)
    laboratory.copy(stage, trial.store)
    manifest = laboratory.manifest(trial.store, stage)
    name = rng.choice([name for name, entry in sorted(manifest.files.items()) if entry.bytes])
    path = trial.store.local_path(manifest) / name
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 + rng.randrange(255)
    path.write_bytes(content)
    return f"{MENDED}: named by verify" if trial.store.verify(manifest) == [name] else f"verify does not name {name}"


def _two_at_once(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Make one artifact from two runs at once: one executes, the other finds it."""
    trial = laboratory.trial(stage)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(laboratory.make, trial), pool.submit(laboratory.make, trial)]
        executed = sorted(run.result().executed for run in runs)
    if executed != [False, True]:
        return f"executed {sum(executed)} times"
    return same(laboratory, trial)


def _clock_jumps(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Let the worker's wall clock jump, by up to two days in either direction."""
    trial = laboratory.trial(stage)
    jump, moment = rng.uniform(-_TWO_DAYS, _TWO_DAYS), rng.uniform(0, laboratory.seconds(stage))
    laboratory.make(trial, start=lambda file: start_with_jump(file, jump, moment))
    return same(laboratory, trial)


def _disk_full(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Let the store's file system fill up, then give it room."""
    disk = laboratory.trials / f"disk-{rng.randrange(1 << 30)}"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return f"{SKIPPED}: mounting a small file system needs privileges"
    try:
        trial = laboratory.trial(stage, place=disk / "store")
        usage = os.statvfs(disk)
        needed = sum(entry.bytes for entry in laboratory.manifest(laboratory.reference, stage).files.values())
        ballast, room = disk / "ballast", rng.randrange(needed)
        with ballast.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(usage.f_bavail * usage.f_frsize - room, 1))
        return _broken_then_mended(
            laboratory, trial, lambda: laboratory.make(trial), between=ballast.unlink, words="disk is full"
        )
    finally:
        subprocess.run(["umount", str(disk)], capture_output=True, check=False)


def _store_unreachable(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Kill the S3 server while the stage is made or, half of the times, about when it is uploaded; it comes back."""
    if rclone() is None:
        return f"{SKIPPED}: rclone is not installed"
    server = ObjectStorage(laboratory.trials / f"s3-{rng.randrange(1 << 30)}")
    with server.serving():
        trial = laboratory.trial(stage, place=f"s3://{BUCKET}/{server.port}")
        moment = _work_or_end(laboratory.seconds(stage), rng)
        killer = threading.Timer(moment, server.kill)

        def break_it() -> None:
            killer.start()
            laboratory.make(trial)

        def back() -> None:
            killer.join()
            server.start()

        return _broken_then_mended(laboratory, trial, break_it, between=back)


KINDS: dict[str, Kind] = {
    "worker killed": _killed_by(signal.SIGKILL),
    "run killed": _run_killed,
    "worker told to stop": _killed_by(signal.SIGTERM),
    "resume state cut": _resume_state_cut,
    "artifact cut": _artifact_cut,
    "manifest damaged": _manifest_cut,
    "byte flipped": _bytes_flipped,
    "two runs at one key": _two_at_once,
    "clock jumps": _clock_jumps,
    "disk full": _disk_full,
    "store unreachable": _store_unreachable,
}


def _work_or_end(seconds: float, rng: random.Random) -> float:
    """Return a moment of a stage's work or, as often, of its last tenth and shortly after."""
    return rng.choice((rng.uniform(0, seconds), rng.uniform(0.9, 1.1) * seconds + rng.uniform(0, 0.1)))


def _broken_again_and_again(
    laboratory: Laboratory, trial: Trial, rng: random.Random, break_once: Callable[[], str | None]
) -> list[str]:
    """Break up to four attempts one after the other, then let one come through; return what became of each fault."""
    problems: list[str] = []
    for _ in range(rng.randint(1, _MOST_KILLS)):
        problem = break_once()
        if problem is None:
            break
        problems.append(problem)
    end = _gone_on(laboratory, trial)
    if problems:
        return [problem or end for problem in problems]
    return [_missed(laboratory, trial, end)]


def _broken_then_mended(
    laboratory: Laboratory,
    trial: Trial,
    break_it: Callable[[], object],
    *,
    between: Callable[[], object] = lambda: None,
    words: str = "",
) -> str:
    """Break an attempt, mend its surroundings, go on and compare."""
    problem = _broken(laboratory, trial, break_it, words)
    between()
    end = _gone_on(laboratory, trial)
    return _missed(laboratory, trial, end) if problem is None else problem or end


def _missed(laboratory: Laboratory, trial: Trial, end: str) -> str:
    if end == MENDED:
        laboratory.came_through(trial)
    return f"{MISSED}; {end}"


def _broken(laboratory: Laboratory, trial: Trial, break_it: Callable[[], object], words: str) -> str | None:
    """Break an attempt; return what is wrong with what is served and said, None when it came through."""
    with laboratory.reader(trial) as reader:
        try:
            break_it()
        except (StageError, ArtifactError) as error:
            problem = message_problem(str(error), trial.stage, words)
        else:
            return reader.problem or None
    return reader.problem or problem


def _gone_on(laboratory: Laboratory, trial: Trial) -> str:
    """Let the stage be made, or found whole, and compare."""
    try:
        laboratory.make(trial)
    except (StageError, ArtifactError) as error:
        return f"not gone on with: {str(error)[:400]}"
    return same(laboratory, trial)


def _made_again(laboratory: Laboratory, trial: Trial) -> str:
    if laboratory.planned(trial.store, trial.stage).reference is not None:
        return "a damaged artifact is served"
    laboratory.make(trial)
    return same(laboratory, trial)


def same(laboratory: Laboratory, trial: Trial) -> str:
    """Return MENDED when the trial's artifact is the reference's, else in what it differs."""
    differences = laboratory.differences(trial)
    return f"another artifact: {', '.join(differences[:5])}" if differences else MENDED


def message_problem(message: str, stage: str, words: str) -> str:
    """Return what a run's last message lacks: the stage, a remedy, or `words`; empty when it has them."""
    if stage not in message and "the store " not in message:  # lost while planning, no stage had begun
        return f"the message does not name the stage: {message[:200]}"
    if not any(remedy in message for remedy in REMEDIES):
        return f"the message names no remedy: {message[:200]}"
    return "" if words in message else f"the message does not say {words!r}: {message[:200]}"
