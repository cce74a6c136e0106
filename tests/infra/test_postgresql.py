"""A real PostgreSQL behind the Prefect server: the deployments of the compose file and the cluster, and a run."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.server import free_port
from tests.flows.test_pipeline import nanbeige, recipe_file

pytestmark = pytest.mark.server


def programs() -> Path | None:
    """Where the server's programs are: the newest of Debian's versions, or the search path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgreSQL:
    """A cluster in a folder of its own, on a free loopback port; root starts it as the user `postgres`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.bin = programs()
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres:drawn-for-this-test@127.0.0.1:{self.port}/postgres"

    def call(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*self.as_user, f"{self.bin}/{name}", *arguments]
        return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def start(self) -> str:
        """Start it; return an empty text, or why it does not run here."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        password = self.folder / "password"
        password.write_text("drawn-for-this-test\n")
        if self.as_user:
            shutil.chown(self.folder, "postgres")
            shutil.chown(password, "postgres")
        data = str(self.folder / "data")
        made = self.call("initdb", "-D", data, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}", "-N")
        if made.returncode != 0:
            return made.stderr
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "log")
        return self.call("pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "-t", "60", "start").stderr

    def stop(self) -> None:
        self.call("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path("/tmp") / f"nanbeige-postgresql-{os.getpid()}"
    made = PostgreSQL(folder)
    if problem := made.start():
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start here: {problem}")
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_recipe_runs_on_a_server_with_postgresql(
    database: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", database.url)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    from flows.server import start_server

    file = recipe_file(tmp_path)
    with start_server(free_port()) as server:
        names = nanbeige("deploy", "--file", str(file), "--store", "s3://bucket/recipe", cwd=tmp_path, api=server.url)
        assert names.returncode == 0, names.stderr
        assert "recipe/full" in names.stdout
        first = nanbeige("run", "--file", str(file), cwd=tmp_path, api=server.url)
        assert first.returncode == 0, first.stdout + first.stderr
        counts = ", ".join(f"(select count(*) from {table})" for table in ("task_run", "deployment", "flow_run"))
        env = {**os.environ, "PGPASSWORD": "drawn-for-this-test"}
        psql = ["psql", "-h", "127.0.0.1", "-p", str(database.port), "-U", "postgres", "-At", "-c", f"select {counts}"]
        counted = subprocess.run(psql, env=env, capture_output=True, text=True, check=True).stdout.strip()
        assert counted == "2|2|1"
        running = psutil.Process(server.pid)
        listening = {
            connection.laddr.ip
            for process in (running, *running.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    assert not (tmp_path / "prefect/prefect.db").exists(), "nothing fell back to SQLite"
    assert "drawn-for-this-test" not in (tmp_path / "prefect/server.log").read_text()
