"""Read what the machine is: processor, caches, vector instructions, quota and hypervisor.

On Linux everything comes from files, so that a folder with such files describes a machine. A fact that this system
does not tell is None.
"""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mlpbench.errors import printable
from mlpbench.records.environment import NONE, Hardware
from mlpbench.records.facts import vector_flags

# Beginnings of the vendor or product in the firmware of virtual machines, and the names of their hypervisors.
_VIRTUAL = {
    "QEMU": "KVM", "KVM": "KVM", "Amazon EC2": "Amazon EC2", "Google": "Google", "VMware": "VMware", "Xen": "Xen",
    "innotek": "VirtualBox", "OpenStack": "OpenStack", "Alibaba": "Alibaba", "DigitalOcean": "DigitalOcean",
    "Virtual Machine": "Hyper-V", "Parallels": "Parallels", "BHYVE": "bhyve", "Apple Virtualization": "Apple",
}  # fmt: skip
UNNAMED = "unnamed"
"""The text for a hypervisor that does not give its name."""


def read(root: Path = Path("/")) -> Hardware:
    """Describe the machine, without its GPU.

    Args:
        root: The folder that holds `proc` and `sys`, for Linux.
    """
    if (root / "proc/cpuinfo").exists():
        return _linux(root)
    if platform.system() == "Darwin":
        return _darwin()
    return _other(platform.processor())


def memory_bytes() -> int | None:
    """Return the size of the physical memory; None if it is not available."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


# --- Linux ------------------------------------------------------------------------------------------------------------


def _linux(root: Path) -> Hardware:
    text = _text(root / "proc/cpuinfo")
    cpuinfo: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        cpuinfo.setdefault(key.strip(), printable(value.strip()))
    flags = cpuinfo.get("flags") or cpuinfo.get("Features")
    cpus = root / "sys/devices/system/cpu"
    # /proc/cpuinfo has one paragraph for each CPU in use.
    num_cpus = (
        _count(_text(cpus / "online")) or len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count()
    )
    return Hardware(
        cpu_model=cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor() or platform.machine(),
        cpu_vendor=cpuinfo.get("vendor_id") or cpuinfo.get("CPU implementer"),
        cpu_family=_integer(cpuinfo.get("cpu family") or cpuinfo.get("CPU architecture")),
        cpu_model_number=_integer(cpuinfo.get("model") or cpuinfo.get("CPU part")),
        cpu_stepping=_stepping(cpuinfo),
        architecture=platform.machine(),
        num_cpus=num_cpus,
        threads_per_core=_count(_text(cpus / "cpu0/topology/thread_siblings_list")) or _threads_per_core(cpuinfo),
        caches=_caches(cpus / "cpu0/cache"),
        vector_flags=None if flags is None else vector_flags(flags.split()),
        cpu_quota=_quota(root, num_cpus),
        hypervisor=_hypervisor(root, flags),
        memory_bytes=memory_bytes(),
    )


def _text(path: Path) -> str:
    """Return the content of a file, empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _integer(text: str | None) -> int | None:
    """Return a decimal or hexadecimal number; None for another text."""
    try:
        return int(text or "", base=0)
    except ValueError:
        return None


def _stepping(cpuinfo: dict[str, str]) -> int | None:
    variant, revision = _integer(cpuinfo.get("CPU variant")), _integer(cpuinfo.get("CPU revision"))
    if variant is not None and revision is not None:
        return variant << 4 | revision
    return _integer(cpuinfo.get("stepping"))


def _threads_per_core(cpuinfo: dict[str, str]) -> int | None:
    siblings, cores = _integer(cpuinfo.get("siblings")), _integer(cpuinfo.get("cpu cores"))
    return siblings // cores if siblings and cores else None


def _count(cpu_list: str) -> int:
    """Return the number of CPUs in a list of Linux; 0 for another text.

    >>> _count("0-3,8")
    5
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", cpu_list):
        return 0
    ranges = [[int(number) for number in part.split("-")] for part in cpu_list.split(",")]
    return sum(part[-1] - part[0] + 1 for part in ranges)


def _caches(folder: Path) -> tuple[tuple[str, int], ...] | None:
    """Return name and size of each cache of a CPU; None if the system does not tell them."""
    caches = []
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if match and level:
            name = f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') }".replace(" ", "")
            caches.append((name, int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]))
    return tuple(sorted(caches)) or None


def _quota(root: Path, num_cpus: int | None) -> float | None:
    """Return the CPU time per second that control groups allow; at most the number of CPUs.

    The groups above a process limit it too, so that the smallest quota counts.
    """
    if num_cpus is None:
        return None
    return min([float(num_cpus), *_quotas(root)])


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of every control group of this process, of both versions, and of the groups above."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, names_and_group = line.partition(":")
        names, _, group = names_and_group.partition(":")
        if names and "cpu" not in names.split(","):
            continue
        # In a container, the path may be that of the host, and the container's own group is mounted at the top.
        path = Path(group.lstrip("/"))
        for mounted in (mount / names, mount / "cpu", mount / "unified") if names else (mount, mount / "unified"):
            for folder in (mounted / path, *(mounted / parent for parent in path.parents)):
                quota, period = _limits(folder)
                if quota > 0 and period > 0:
                    yield quota / period


def _limits(group: Path) -> tuple[int, int]:
    """Return quota and period of one control group, in µs; 0 or less if it has no limit."""
    quota, _, period = _text(group / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return _integer(quota) or 0, _integer(period) or 0


def _hypervisor(root: Path, flags: str | None) -> str | None:
    """Return the name of the hypervisor, `none` on real hardware, and None if the system does not tell."""
    name = _text(root / "sys/hypervisor/type").capitalize() or _firmware(root)
    # Processors of x86 tell their programs that a hypervisor runs below them. The firmware can only add its name.
    if flags is not None and "fpu" in flags.split():
        return (name or UNNAMED) if "hypervisor" in flags.split() else NONE
    if name:
        return name
    tree = root / "proc/device-tree"
    if (tree / "hypervisor").exists():
        return UNNAMED
    has_firmware = (root / "sys/class/dmi/id/sys_vendor").exists() or (tree / "model").exists()
    return NONE if has_firmware else None


def _firmware(root: Path) -> str | None:
    """Return the name of the hypervisor that the firmware gives, if it is one of those known here."""
    texts = [_text(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return next((name for text in texts for start, name in _VIRTUAL.items() if text.startswith(start)), None)


# --- other systems ----------------------------------------------------------------------------------------------------

# What sysctl of macOS calls the facts; the first of several names that exists.
_SYSCTL = {
    "cpu_model": ("machdep.cpu.brand_string",),
    "cpu_vendor": ("machdep.cpu.vendor",),
    "cpu_family": ("machdep.cpu.family", "hw.cpufamily"),
    "cpu_model_number": ("machdep.cpu.model", "hw.cpusubtype"),
    "cpu_stepping": ("machdep.cpu.stepping", "hw.cpusubfamily"),
    "cores": ("hw.physicalcpu",),
    "hypervisor": ("kern.hv_vmm_present",),
    "L1d": ("hw.perflevel0.l1dcachesize", "hw.l1dcachesize"),
    "L1i": ("hw.perflevel0.l1icachesize", "hw.l1icachesize"),
    "L2": ("hw.perflevel0.l2cachesize", "hw.l2cachesize"),
    "L3": ("hw.l3cachesize",),
}


def _darwin() -> Hardware:
    names = [name for group in _SYSCTL.values() for name in group]
    try:
        # It prints the names that exist, and fails if one does not.
        output = subprocess.run(["sysctl", *names], capture_output=True, text=True, check=False, timeout=20).stdout  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        output = ""
    return from_sysctl(output, os.cpu_count())


def from_sysctl(output: str, num_cpus: int | None) -> Hardware:
    """Describe a machine by the lines `name: value` that sysctl of macOS prints."""
    values = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    facts = {fact: next((values[name] for name in names if name in values), None) for fact, names in _SYSCTL.items()}
    caches = [(name, _integer(facts[name]) or 0) for name in ("L1d", "L1i", "L2", "L3")]
    model, family = facts["cpu_model"], _integer(facts["cpu_family"])
    return Hardware(
        cpu_model=model or platform.machine(),
        cpu_vendor=facts["cpu_vendor"] or ("Apple" if model and model.startswith("Apple") else None),
        # Apple prints an unsigned number with a sign.
        cpu_family=None if family is None else family % 2**32,
        cpu_model_number=_integer(facts["cpu_model_number"]),
        cpu_stepping=_integer(facts["cpu_stepping"]),
        architecture=platform.machine(),
        num_cpus=num_cpus,
        threads_per_core=num_cpus // cores if num_cpus and (cores := _integer(facts["cores"])) else None,
        caches=tuple(cache for cache in caches if cache[1]) or None,
        cpu_quota=None if num_cpus is None else float(num_cpus),
        hypervisor={"0": NONE, "1": UNNAMED}.get(facts["hypervisor"] or ""),
        memory_bytes=memory_bytes(),
    )


def _other(description: str) -> Hardware:
    """Describe a machine by the text of `platform.processor`, which has the numbers on Windows."""
    numbers = {name: int(value) for name, value in re.findall(r"(Family|Model|Stepping) (\d+)", description)}
    return Hardware(
        cpu_model=description or platform.machine(),
        cpu_vendor=description.rpartition(", ")[2] if numbers and ", " in description else None,
        cpu_family=numbers.get("Family"),
        cpu_model_number=numbers.get("Model"),
        cpu_stepping=numbers.get("Stepping"),
        architecture=platform.machine(),
        num_cpus=os.cpu_count(),
        memory_bytes=memory_bytes(),
    )
