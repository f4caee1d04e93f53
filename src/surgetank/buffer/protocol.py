"""The whole of a buffer: the sum of its roles. An implementation implements `Buffer`; whoever uses one
takes the narrowest role that will do.

| role | module | what it is for |
|---|---|---|
| `Log` | `log` | accepting entries, finding them by key |
| `Tallies` | `tallies` | counting reports of one kind |
| `Coordination` | `coordination` | leases, attempts, parked entries, what waits |
| `JobLog` | `jobs` | what became of each flush |
| `Bindable`, `Fence` | `binding` | its database; going back in time |
| `CopyStore` | `copies` | what was flushed lately, for when the database is away |
| `Upkeep` | `upkeep` | damage, erasing, space |
| `Spilling` | `spilling` | a capability on top: values move into files |

Each role's docstring has its promises. `tests/contract/` tests just these sentences on each
implementation.
"""

from __future__ import annotations

from typing import Protocol

from surgetank.buffer.binding import Bindable, Fence
from surgetank.buffer.coordination import Coordination
from surgetank.buffer.copies import CopyStore
from surgetank.buffer.jobs import JobLog
from surgetank.buffer.log import Log
from surgetank.buffer.tallies import Tallies
from surgetank.buffer.upkeep import Upkeep


class Buffer(Log, Tallies, Coordination, JobLog, Bindable, Fence, CopyStore, Upkeep, Protocol):
    """The hot buffer. Safe to use from several threads; several processes may share one."""
