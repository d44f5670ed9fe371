"""Test bed of whole machines: Debian with systemd, sshd and a Docker Engine each, joined by a switch.

The machines of ``tests.support.cluster`` are namespaces with single programs. These have an init system: units, timers
and sandboxes are the real ones, ``reboot`` reboots, and a power cut ends everything at once. Use them for what is
installed on machines; for a cluster under faults the other bed is faster.

    with MachineBed(tmp_path / "bed", count=3) as bed:
        machine = bed.machines["m1"]
        machine.copy(folder, "/etc/folder")
        machine.ssh("systemctl enable --now folder")
        machine.reboot()
        machine.cut_power()
        machine.start()
        print(machine.journal("folder"))

Needs root, systemd-nspawn, mmdebstrap, ssh, and control groups of version 1, which systemd-nspawn cannot give to a
machine where no systemd runs outside of it. The file system of a machine is a layer above a tree of half a gigabyte,
made once in a minute and a half and kept in /var/cache. A machine is up a few seconds after :meth:`Machine.start`.

Everything ends with the process that made the bed, also if that is killed: the machines are in a process namespace,
whose first process ends when its input does, and a guard removes their folders and control groups. Nothing is changed
on the machine outside, and the machines reach nothing but one another and the operator's place on the switch.

``tree``: the kept file system. ``project``: the project on it. ``bed``: all machines, the operator's place.
``machine``: one machine. ``guard``: the process that ends all. ``cluster``: etcd, controllers and agents, installed as
the documentation says. Tests do not belong here.
"""
