"""The job log of the SQLite buffer."""

from __future__ import annotations

from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.rows import JOB
from surgetank.buffer.stored_jobs import job_json, job_of
from surgetank.model import FlushJob


class SQLiteJobLog:
    """The role `JobLog`."""

    def __init__(self, file: BufferFile) -> None:
        self._file = file

    def save_job(self, job: FlushJob) -> None:
        with self._file.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs (id, created_at, stream, status, body)"
                " VALUES (?, ?, ?, ?, ?)",
                (job.id, job.created_at, job.stream, job.status.value, job_json(job)),
            )

    def job(self, job_id: str) -> FlushJob | None:
        with self._file.read() as connection:
            row = connection.execute(f"SELECT {JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return job_of(row) if row else None

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        with self._file.read() as connection:
            rows = connection.execute(
                f"SELECT {JOB} FROM jobs WHERE (?1 IS NULL OR stream = ?1)"
                " AND (?2 IS NULL OR status = ?2) ORDER BY created_at DESC, id DESC LIMIT ?3",
                (stream, status, limit),
            ).fetchall()
        return [job_of(row) for row in rows]
