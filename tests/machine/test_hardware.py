"""Check that machines are told apart by the files of Linux, and by what other systems tell."""

import platform
from dataclasses import replace

import pytest

from mlpbench.machine import hardware
from mlpbench.records.codec import decode, encode
from mlpbench.records.environment import CPU, MACHINE, Sameness
from tests.strategies import ENVIRONMENT, session

# Two processors that both call themselves AMD EPYC.
GENERATION = {
    25: "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n",
    26: "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nstepping\t: 1\n",
}
REST = "siblings\t: 2\ncpu cores\t: 2\nflags\t\t: fpu sse4_2 avx avx2 fma avx512f hypervisor\n"
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd atomics sve bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 2
"""


def written(root, files):
    """Write the files of a machine under a folder, and return the folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def linux(root, *, family=25, num_cpus=2, **files):
    """Write the files of a virtual machine, and return their folder; the names of more files have two underscores."""
    cache = "sys/devices/system/cpu/cpu0/cache/index"
    caches = [("1", "Data", "32K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    usual = {
        "proc/cpuinfo": "\n".join(f"processor\t: {i}\n{GENERATION[family]}{REST}" for i in range(num_cpus)),
        "sys/devices/system/cpu/online": f"0-{num_cpus - 1}\n",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0\n",
        "proc/self/cgroup": "0::/user.slice/run-1.scope\n",
    }
    for index, values in enumerate(caches):
        usual |= {f"{cache}{index}/{name}": v for name, v in zip(("level", "type", "size"), values, strict=True)}
    return written(root, usual | {name.replace("__", "/"): text for name, text in files.items()})


def test_linux_tells_every_fact_of_the_identity(tmp_path):
    machine = hardware.read(linux(tmp_path))
    assert {name for name in MACHINE if getattr(machine, name) is None} == {"gpu_model"}
    assert (machine.cpu_vendor, machine.cpu_family, machine.cpu_model_number, machine.cpu_stepping) == (
        "AuthenticAMD", 25, 17, 1)  # fmt: skip
    assert machine.cpu == "AMD EPYC 25/17"
    assert machine.caches == (("L1d", 2**15), ("L1i", 2**15), ("L2", 2**20), ("L3", 2**25))
    assert machine.vector_flags == ("avx", "avx2", "avx512f", "fma", "sse4_2")
    assert (machine.num_cpus, machine.threads_per_core, machine.cpu_quota) == (2, 1, 2.0)
    assert machine.hypervisor == hardware.UNNAMED


def test_two_generations_of_one_brand_are_different(tmp_path):
    one, other = (hardware.read(linux(tmp_path / str(family), family=family)) for family in GENERATION)
    likeness = one.compare(other)
    assert likeness.sameness is Sameness.DIFFERENT
    assert likeness.differing == {"cpu_family": ("25", "26"), "cpu_model_number": ("17", "2")}
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("files", "fact"),
    [
        ({"proc__cpuinfo": GENERATION[25].replace("stepping\t: 1", "stepping\t: 2") + REST}, "cpu_stepping"),
        ({"proc__cpuinfo": GENERATION[25] + REST.replace(" avx512f", "")}, "vector_flags"),
        ({"proc__cpuinfo": GENERATION[25] + REST.replace(" hypervisor", "")}, "hypervisor"),
        ({"sys__devices__system__cpu__cpu0__cache__index3__size": "16M"}, "caches"),
        ({"sys__devices__system__cpu__cpu0__topology__thread_siblings_list": "0,1\n"}, "threads_per_core"),
        ({"sys__devices__system__cpu__online": "0-1,4\n"}, "num_cpus"),
        ({"sys__fs__cgroup__user.slice__cpu.max": "150000 100000\n"}, "cpu_quota"),
    ],
)
def test_another_machine_differs_in_one_fact(tmp_path, files, fact):
    one, other = hardware.read(linux(tmp_path / "a")), hardware.read(linux(tmp_path / "b", **files))
    # A machine with other CPUs also has another quota if no group limits it.
    assert list(one.compare(other).differing) == [fact] + ["cpu_quota"] * (fact == "num_cpus")


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        # More than the machine has is no limit.
        ("0::/a\n", {"a/cpu.max": "800000 100000"}, 2.0),
        # In a container, the path is that of the host.
        ("0::/system.slice/docker-1.scope\n", {"cpu.max": "100000 100000"}, 1.0),
        ("4:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
                                  "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 1.0),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ("1:cpu:/\n2:memory:/m\n", {"memory/m/cpu.max": "1 100000"}, 2.0),
        ("", {}, 2.0),
        ("0::/\n", {"cpu.max": "garbage"}, 2.0),
    ],
)  # fmt: skip
def test_quota_is_the_smallest_of_all_groups_of_the_process(tmp_path, groups, files, quota):
    files = {f"sys__fs__cgroup__{name.replace('/', '__')}": text for name, text in files.items()}
    assert hardware.read(linux(tmp_path, proc__self__cgroup=groups, **files)).cpu_quota == quota


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sys__hypervisor__type": "xen\n"}, "Xen"),
        ({"sys__class__dmi__id__sys_vendor": "QEMU\n"}, "KVM"),
        ({"sys__class__dmi__id__sys_vendor": "Microsoft Corporation\n",
          "sys__class__dmi__id__product_name": "Virtual Machine\n"}, "Hyper-V"),
        ({"sys__class__dmi__id__sys_vendor": "Example Servers\n"}, "unnamed"),
        ({"sys__class__dmi__id__sys_vendor": "Amazon EC2\n",
          "proc__cpuinfo": GENERATION[25] + REST.replace(" hypervisor", "")}, "none"),
    ],
)  # fmt: skip
def test_hypervisor_is_named_if_the_processor_has_one(tmp_path, files, name):
    assert hardware.read(linux(tmp_path, **files)).hypervisor == name


def test_arm_has_a_generation_too(tmp_path):
    machine = hardware.read(written(tmp_path, {"proc/cpuinfo": ARM}))
    assert [getattr(machine, name) for name in CPU[1:]] == ["0x41", 8, 0xD40, 0x12]
    assert machine.vector_flags == ("asimd", "bf16", "sve")
    other = hardware.read(written(tmp_path / "b", {"proc/cpuinfo": ARM.replace("0xd40", "0xd4f")}))
    assert list(machine.compare(other).differing) == ["cpu_model_number"]


@pytest.mark.parametrize("text", ["", "garbage", "processor: x\nmodel: y\ncpu family: 25.5\nflags\n"])
def test_facts_that_linux_does_not_tell_are_unknown(tmp_path, text):
    machine = hardware.read(written(tmp_path, {"proc/cpuinfo": text}))
    assert (machine.cpu_family, machine.cpu_model_number, machine.caches, machine.hypervisor) == (None,) * 4
    assert machine.cpu_model
    assert machine.compare(machine).sameness is Sameness.UNKNOWN


def test_one_machine_after_a_restart_is_the_same(tmp_path):
    one, other = hardware.read(linux(tmp_path / "a")), hardware.read(linux(tmp_path / "b"))
    assert one.compare(other).differing == {}
    assert one.digest == other.digest


def test_this_machine_is_read():
    machine = hardware.read()
    assert machine.cpu_model
    assert machine.num_cpus >= 1
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        assert None not in (machine.cpu_family, machine.cpu_model_number, machine.cpu_stepping, machine.vector_flags)


def test_identity_survives_a_record(tmp_path):
    name = "AMD EPYC \x00\x1b[2J" + "x" * 100
    files = {"proc__cpuinfo": GENERATION[25].replace("AMD EPYC", name) + REST}
    machine = hardware.read(linux(tmp_path, **files))
    line = encode(session(environment=replace(ENVIRONMENT, hardware=machine)))
    loaded = decode(line).environment
    assert loaded.hardware == machine
    assert loaded.machine == replace(ENVIRONMENT, hardware=machine).machine


# --- other systems


def test_macos_tells_the_facts_by_sysctl():
    output = """machdep.cpu.brand_string: Apple M2
hw.cpufamily: -634136515
hw.cpusubtype: 2
hw.physicalcpu: 8
kern.hv_vmm_present: 0
hw.perflevel0.l1dcachesize: 131072
hw.l1dcachesize: 65536
hw.perflevel0.l2cachesize: 16777216
"""
    machine = hardware.from_sysctl(output, 8)
    assert (machine.cpu_model, machine.cpu_vendor, machine.cpu_family) == ("Apple M2", "Apple", 0xDA33D83D)
    assert (machine.cpu_model_number, machine.cpu_stepping, machine.threads_per_core) == (2, None, 1)
    assert machine.caches == (("L1d", 131072), ("L2", 16777216))
    assert (machine.hypervisor, machine.cpu_quota) == ("none", 8.0)


def test_macos_that_tells_nothing_is_unknown():
    machine = hardware.from_sysctl("", None)
    assert (machine.cpu_family, machine.caches, machine.hypervisor, machine.cpu_quota) == (None,) * 4


def test_windows_tells_the_numbers_of_the_processor(tmp_path, monkeypatch):
    text = "Intel64 Family 6 Model 142 Stepping 10, GenuineIntel"
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(platform, "processor", lambda: text)
    machine = hardware.read(tmp_path)
    assert [getattr(machine, name) for name in CPU] == [text, "GenuineIntel", 6, 142, 10]
