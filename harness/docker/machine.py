"""The machine as dockerd finds it and changes it: rules, interfaces, forwarding, mounts, control groups."""

import json
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.docker.leftovers import is_bridge, removal

# Each node's systemd, kubelet and containerd need some inotify instances, and all containers share their
# user's number. The kernel's default of 128 is too few for three nodes: one fails with "too many open files".
ENOUGH_INOTIFY_INSTANCES = 512
FILTERS = ("iptables", "ip6tables")
SYS_RESOURCE = 24  # the number of CAP_SYS_RESOURCE
COMMAND_TIMEOUT = 30.0  # seconds; each of them takes a fraction of one


@dataclass(frozen=True)
class Snapshot:
    """What dockerd changes, as it was before."""

    rules: dict[str, str]
    links: list[str]
    forwarding: str
    inotify_instances: str
    control_groups: list[str]
    has_modules: bool

    @classmethod
    def read(cls, file: Path) -> "Snapshot":
        return cls(**json.loads(file.read_text()))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1))


class Machine:
    """Looks at what dockerd changes, and takes it away again.

    The methods that take something away return the failures: each command whose work is still to be done,
    with its own words. A rule or a mount that is already gone is no failure.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """Take the settings of the kernel, the control groups and the mounts from below ``root``."""
        self._forwarding = root / "proc/sys/net/ipv4/ip_forward"
        self._inotify_instances = root / "proc/sys/fs/inotify/max_user_instances"
        self._own = root / "proc/self"
        self._groups = root / "sys/fs/cgroup"
        # kind mounts it into its nodes, and dockerd makes it where it is missing
        self._modules = root / "lib/modules"

    def snapshot(self) -> Snapshot:
        """Return what dockerd will change."""
        return Snapshot(
            rules={program: _output(f"{program}-save") for program in FILTERS},
            links=_links(),
            forwarding=self._forwarding.read_text().strip(),
            inotify_instances=self._inotify_instances.read_text().strip(),
            control_groups=[str(group) for group in self._control_groups()],
            has_modules=self._modules.exists(),
        )

    def inotify_trouble(self) -> str | None:
        """Return why nodes may lack inotify instances, with the remedy; None if there are enough."""
        instances = int(self._inotify_instances.read_text())
        if instances >= ENOUGH_INOTIFY_INSTANCES:
            return None
        return (
            f"fs.inotify.max_user_instances is {instances}: nodes may fail with too many open files; "
            f"sysctl -w fs.inotify.max_user_instances={ENOUGH_INOTIFY_INSTANCES} allows enough"
        )

    def allow_inotify_instances(self) -> None:
        """Allow enough inotify instances for the nodes of a cluster, until `restore`."""
        if self.inotify_trouble() is not None:
            self._inotify_instances.write_text(str(ENOUGH_INOTIFY_INSTANCES))

    def restore(self, before: Snapshot) -> list[str]:
        """Take away what dockerd has left: only what was not there before, and only what it makes itself."""
        bridges = [link for link in _links() if is_bridge(link) and link not in before.links]
        networks = [network for bridge in bridges for network in _networks(bridge)]
        failures = []
        for program in FILTERS:
            failures += _remove_rules(program, before.rules[program], bridges, networks)
        for bridge in bridges:
            failure = _failure("ip", "link", "delete", bridge)
            if failure and bridge in _links():
                failures.append(failure)
        failures += _set(self._forwarding, before.forwarding)
        # Any other number has been set by somebody since.
        if self._inotify_instances.read_text().strip() == str(ENOUGH_INOTIFY_INSTANCES):
            failures += _set(self._inotify_instances, before.inotify_instances)
        self._remove_control_groups(before)
        if not before.has_modules:
            _remove_if_empty(self._modules)
        return failures

    def unmount_below(self, folder: Path) -> list[str]:
        """Unmount everything below a folder, the innermost first: a killed dockerd leaves its mounts."""
        failures = {mount: _failure("umount", "--lazy", mount) for mount in self._mounts(folder)}
        left = self._mounts(folder)
        return [failure for mount, failure in failures.items() if failure and mount in left]

    def lacks_sys_resource(self) -> bool:
        """Return whether this machine withholds CAP_SYS_RESOURCE even from root."""
        for line in (self._own / "status").read_text().splitlines():
            if line.startswith("CapBnd:"):
                return not int(line.split()[1], 16) >> SYS_RESOURCE & 1
        return False

    def _mounts(self, folder: Path) -> list[str]:
        mounts = [line.split()[4] for line in (self._own / "mountinfo").read_text().splitlines()]
        return [mount for mount in sorted(mounts, reverse=True) if Path(mount).is_relative_to(folder)]

    def _control_groups(self) -> list[Path]:
        return sorted({*self._groups.glob("docker"), *self._groups.glob("*/docker")})

    def _remove_control_groups(self, before: Snapshot) -> None:
        for group in self._control_groups():
            if str(group) not in before.control_groups:
                for folder, _, _ in os.walk(group, topdown=False):
                    _remove_if_empty(Path(folder))


def _links() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def _networks(link: str) -> list[str]:
    shown = json.loads(_output("ip", "-json", "address", "show", "dev", link) or "[]")
    return [f"{info['local']}/{info['prefixlen']}" for entry in shown for info in entry.get("addr_info", [])]


def _remove_rules(program: str, before: str, bridges: list[str], networks: list[str]) -> list[str]:
    """Remove dockerd's rules and chains from one packet filter; return the failures."""

    def left(saved: str) -> list[list[str]]:
        return removal(before, saved, bridges=bridges, networks=networks)

    if not shutil.which(f"{program}-save"):
        return []
    saved = _run(f"{program}-save")
    if saved.returncode != 0:
        # It may have failed before as well, as that of ip6tables does without IPv6.
        return [f"{program}-save: {_words(saved)}"] if before else []
    commands = left(saved.stdout)
    failures = [(arguments, _failure(program, "--wait", *arguments)) for arguments in commands]
    if not any(failure for _, failure in failures):
        return []
    # The exit status does not say whether the rule is already gone, and the words differ by version.
    again = _run(f"{program}-save")
    still = left(again.stdout) if again.returncode == 0 else commands
    return [failure for arguments, failure in failures if failure and arguments in still]


def _set(setting: Path, value: str) -> list[str]:
    """Give a setting of the kernel a value again; return the failure, if any."""
    if setting.read_text().strip() == value:
        return []
    try:
        setting.write_text(value)
    except OSError as error:
        return [f"writing {value} to {setting}: {error.strerror}"]
    return []


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()  # of a control group, too: it refuses while a process is in it
    except OSError:
        return


def _output(*command: str) -> str:
    """Return what a command prints; nothing where it is missing or fails, as ip6tables may without IPv6."""
    return _run(*command).stdout if shutil.which(command[0]) else ""


def _failure(*command: str) -> str | None:
    """Run a command; return None, or the command and why it failed."""
    try:
        done = _run(*command)
    except FileNotFoundError:
        words = f"{command[0]} is missing"
    except subprocess.TimeoutExpired:
        words = f"it took more than {COMMAND_TIMEOUT:.0f} s"
    else:
        if done.returncode == 0:
            return None
        words = _words(done)
    return f"{shlex.join(command)}: {words}"


def _words(failed: subprocess.CompletedProcess[str]) -> str:
    return failed.stderr.strip() or f"exit {failed.returncode}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT)
