"""What every command needs: the settings, the places that can be reached, the local cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gpuserve.errors import NotAuthenticated, PlatformError
from gpuserve.sandboxes.manager import Place, Sandboxes
from gpuserve.settings import Settings, state_directory
from gpuserve.state import Cache

#: How both ways on are named when there is neither a key nor ``--local``.
NO_KEY = "no Daytona API key: set DAYTONA_API_KEY (environment or .env), or add --local to use this machine"


@dataclass
class Context:
    """One process's view of the world. ``local`` is the ``--local`` flag."""

    settings: Settings
    cache: Cache
    local: bool = False
    _open: dict[str, Sandboxes] = field(default_factory=dict)

    @property
    def only_local(self) -> bool:
        """Whether this machine alone is meant."""
        return self.local or self.settings.target == "local"

    def place_for_up(self, *, create: bool = True) -> Place:
        """Where ``up`` creates: this machine (whose host is started on demand if ``create``), else Daytona.

        Raises:
            NotAuthenticated: neither a key nor ``--local``.
        """
        if self.only_local:
            return self._local_place(start=create) or Place("local", "", "", "local")
        if place := self._daytona_place():
            return place
        raise NotAuthenticated(NO_KEY, hint="gpuserve up --local needs no account and no GPU")

    def place_to_ask(self) -> Place | None:
        """The place that a new deployment would go to, if it can be asked already: nothing is started for it."""
        return self._local_place(start=False) if self.only_local else self._daytona_place()

    def log_path(self, name: str) -> Path:
        """Where the log of the deployment called ``name`` is saved here, unless ``up`` is told another place."""
        chosen = self.settings.log_dir
        return (Path(chosen) if chosen else state_directory() / "logs") / f"{name}.log"

    def places(self) -> list[Place]:
        """Every place that can be asked, Daytona first.

        Raises:
            NotAuthenticated: there is none.
            PlatformError: this machine's is the only one, and its host does not answer.
        """
        daytona = None if self.only_local else self._daytona_place()
        try:
            local = self._local_place(start=False)
        except PlatformError:  # a host that hangs hides nothing of Daytona's
            if daytona is None:
                raise
            local = None
        found = [place for place in (daytona, local) if place]
        if not found and not self.only_local:
            raise NotAuthenticated(NO_KEY, hint="gpuserve up --local needs no account and no GPU")
        return found

    def sandboxes(self, place: str | Place) -> Sandboxes:
        """The sandboxes of one place, which must be reachable.

        Raises:
            NotAuthenticated: the place is Daytona and there is no key.
            PlatformError: the place is this machine and its host isn't running.
        """
        name = place if isinstance(place, str) else place.name
        if name not in self._open:
            known = place if isinstance(place, Place) else self._place(name)
            self._open[name] = Sandboxes(known)
        return self._open[name]

    def _place(self, name: str) -> Place:
        if name == "local":
            if place := self._local_place(start=False):
                return place
            raise PlatformError("the local host isn't running", hint="gpuserve host start")
        if place := self._daytona_place():
            return place
        raise NotAuthenticated(NO_KEY)

    def _daytona_place(self) -> Place | None:
        key = self.settings.api_key.get_secret_value()
        return Place("daytona", self.settings.api_url, key, self.settings.region) if key else None

    def _local_place(self, *, start: bool) -> Place | None:
        from gpuserve.host import daemon

        try:
            info = daemon.start() if start else daemon.running()
        except daemon.HostError as error:
            what = "can't be started" if start else "can't be asked"
            raise PlatformError(f"the local host {what}: {error}", hint="gpuserve host status") from error
        return Place("local", info.url, info.key, "local") if info else None
