"""The machine as dockerd finds it and changes it: rules, interfaces, forwarding, mounts, control groups."""

import json
import os
import shutil
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.docker.leftovers import is_bridge, removal

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# Each node's systemd, kubelet and containerd need some, and all containers share their user's number. The
# kernel's default of 128 is too few for three nodes: one of them fails with "too many open files".
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_INOTIFY_INSTANCES = 512
CONTROL_GROUPS = Path("/sys/fs/cgroup")
MODULES = Path("/lib/modules")  # kind mounts it into its nodes, and dockerd makes it where it is missing
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
    def take(cls) -> "Snapshot":
        return cls(
            rules={program: _output(f"{program}-save") for program in FILTERS},
            links=_links(),
            forwarding=FORWARDING.read_text().strip(),
            inotify_instances=INOTIFY_INSTANCES.read_text().strip(),
            control_groups=[str(group) for group in _control_groups()],
            has_modules=MODULES.exists(),
        )

    @classmethod
    def read(cls, file: Path) -> "Snapshot":
        return cls(**json.loads(file.read_text()))

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1))


def inotify_trouble() -> str | None:
    """Return why nodes may lack inotify instances, with the remedy; None if there are enough."""
    instances = int(INOTIFY_INSTANCES.read_text())
    if instances >= ENOUGH_INOTIFY_INSTANCES:
        return None
    return (
        f"fs.inotify.max_user_instances is {instances}: nodes may fail with too many open files; "
        f"sysctl -w fs.inotify.max_user_instances={ENOUGH_INOTIFY_INSTANCES} allows enough"
    )


def allow_inotify_instances() -> None:
    """Allow enough inotify instances for the nodes of a cluster, until `restore`."""
    if inotify_trouble() is not None:
        INOTIFY_INSTANCES.write_text(str(ENOUGH_INOTIFY_INSTANCES))


def restore(before: Snapshot) -> None:
    """Take away what dockerd has left: only what was not there before, and only what it makes itself."""
    bridges = [link for link in _links() if is_bridge(link) and link not in before.links]
    networks = [network for bridge in bridges for network in _networks(bridge)]
    for program in FILTERS:
        after = _output(f"{program}-save")
        for arguments in removal(before.rules[program], after, bridges=bridges, networks=networks):
            _run(program, "--wait", *arguments)
    for bridge in bridges:
        _run("ip", "link", "delete", bridge)
    FORWARDING.write_text(before.forwarding)
    if INOTIFY_INSTANCES.read_text().strip() == str(ENOUGH_INOTIFY_INSTANCES):  # nobody has changed it since
        INOTIFY_INSTANCES.write_text(before.inotify_instances)
    _remove_control_groups(before)
    if not before.has_modules:
        _remove_if_empty(MODULES)


def unmount_below(folder: Path) -> None:
    """Unmount everything below a folder, the innermost first: a killed dockerd leaves its mounts."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            _run("umount", "--lazy", mount)


def lacks_sys_resource() -> bool:
    """Return whether this machine withholds CAP_SYS_RESOURCE even from root."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return not int(line.split()[1], 16) >> SYS_RESOURCE & 1
    return False


def _links() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def _networks(link: str) -> list[str]:
    shown = json.loads(_output("ip", "-json", "address", "show", "dev", link) or "[]")
    return [f"{info['local']}/{info['prefixlen']}" for entry in shown for info in entry.get("addr_info", [])]


def _control_groups() -> list[Path]:
    return sorted({*CONTROL_GROUPS.glob("docker"), *CONTROL_GROUPS.glob("*/docker")})


def _remove_control_groups(before: Snapshot) -> None:
    for group in _control_groups():
        if str(group) not in before.control_groups:
            for folder, _, _ in os.walk(group, topdown=False):
                _remove_if_empty(Path(folder))


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()  # of a control group, too: it refuses while a process is in it
    except OSError:
        return


def _output(*command: str) -> str:
    """Return what a command prints; nothing where it is missing or fails, as ip6tables may without IPv6."""
    return _run(*command).stdout if shutil.which(command[0]) else ""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT)
