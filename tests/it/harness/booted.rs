//! Machines that a real systemd runs on: a Debian system of their own each, in namespaces, which ends with the test and leaves
//! the system that it was made of as it was.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use super::{eventually, missing, output_within, process::Process, skipped, succeed, tool, within};

/// How long a machine may take to boot.
const BOOT: Duration = Duration::from_secs(60);
/// How long the kernel may take to end all processes of a machine.
const END: Duration = Duration::from_secs(10);
/// How many seconds a script may take.
const PATIENCE: &str = "90";
/// Whoever runs one does not wait longer for its end, whatever it leaves behind.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes a machine of a Debian system `$DEBIAN`: everything that it writes is in memory, its kernel settings cannot be
/// changed, and of devices it has the harmless ones.
const MAKE: &str = r#"
mount --make-rprivate /
upper=$(mktemp -d); mount -t tmpfs tmpfs $upper; mkdir $upper/upper $upper/work $upper/root
mount -t overlay overlay -o lowerdir=$DEBIAN,upperdir=$upper/upper,workdir=$upper/work $upper/root
cd $upper/root
mount -t proc proc proc
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm dev/mqueue dev/hugepages
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s /proc/self/fd dev/fd
mkdir packages .old; mount --bind "$PACKAGES" packages
hostname $NAME; ip link set lo up
pivot_root . .old
exec chroot . /bin/sh -c 'umount -l /.old; rmdir /.old; mount --make-rshared /; cd /
exec env -i container=weft PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console --show-status=no'
"#;

/// A machine that systemd runs.
pub(crate) struct Booted {
    // Its end is the end of everything on the machine.
    process: Option<Process>,
    init: u32,
    cgroup: PathBuf,
}

/// Finds the Debian system that machines are made of, one that debootstrap made; without it the test is skipped, loudly, or
/// fails if `WEFT_TEST_REQUIRE=all`.
pub(crate) fn debian(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("WEFT_TEST_DEBIAN").map(PathBuf::from);
    let found = named.filter(|root| root.join("lib/systemd/systemd").is_file());
    if found.is_none() {
        missing(test, "WEFT_TEST_DEBIAN names no Debian system; `.ci/run` makes one with debootstrap");
    }
    found
}

/// Finds where groups of processes can be made, as systemd does; a container may forbid it, so the test is skipped then.
pub(crate) fn cgroups(test: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1]));
    let usable = found.filter(|path| {
        let probe = path.join(format!("weft-probe-{}", std::process::id()));
        fs::create_dir(&probe).is_ok() && fs::remove_dir(&probe).is_ok()
    });
    if usable.is_none() {
        skipped(test, "no cgroup can be made here");
    }
    usable
}

impl Booted {
    /// Boots a machine of this name; `packages` is `/packages` on it.
    #[track_caller]
    pub(crate) fn new(name: &str, debian: &Path, cgroups: &Path, packages: &TempDir) -> Self {
        // Machines of other stories of this run may be called alike.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroups.join(format!("weft-{}-{number}-{name}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let mut command = Command::new("bash");
        // The new namespace of groups begins where the process is, so it goes there first.
        let script = format!(
            "echo $$ > {}/cgroup.procs\nexec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child bash -ec \"$MAKE\"",
            cgroup.display()
        );
        command.args(["-ec", &script]).env("MAKE", MAKE).env("DEBIAN", debian).env("NAME", name);
        command.env("PACKAGES", packages.path());
        fs::set_permissions(packages.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut process = Process::start(name, command, packages.path());
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let mut machine = eventually(&format!("machine {name}"), BOOT, || {
            process.assert_running();
            fs::read_to_string(&children).ok()?.trim().parse().ok().map(|init| Self {
                process: None,
                init,
                cgroup: cgroup.clone(),
            })
        });
        machine.process = Some(process);
        // What an old disk or a console would need may take longer, and no unit of ours waits for it.
        eventually(&format!("systemd on {name}"), BOOT, || {
            machine.run("systemctl is-active --quiet basic.target").status.success().then_some(())
        });
        machine
    }

    /// Runs a script on the machine.
    pub(crate) fn run(&self, script: &str) -> Output {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.init.to_string(),
                "--all",
                "--root",
                "--wd",
                "timeout",
                PATIENCE,
                "bash",
                "-euc",
                script,
            ])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("DEBIAN_FRONTEND", "noninteractive");
        output_within(&mut command, LIMIT)
    }

    /// Runs a script that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn done(&self, script: &str) -> String {
        let output = self.run(script);
        let journal = || String::from_utf8_lossy(&self.run("journalctl --no-pager --lines 60").stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\nended with {}: {said}\n{}", output.status, journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Lays a cable to another machine, and gives both ends an address.
    #[track_caller]
    pub(crate) fn connect(&self, own: &str, other: &Self, others: &str) {
        let cable = format!("ip link add eth0 netns {} type veth peer name eth0 netns {}", self.init, other.init);
        succeed(Command::new("bash").args(["-ec", &cable]));
        for (machine, address) in [(self, own), (other, others)] {
            machine.done(&format!("ip address add {address}/24 dev eth0 && ip link set eth0 up"));
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        // Empty groups only can be removed, from the innermost out; the kernel takes a moment to empty them.
        let _killed = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let is_empty = || {
            let events = fs::read_to_string(self.cgroup.join("cgroup.events")).ok()?;
            events.contains("populated 0").then_some(())
        };
        if within(END, is_empty).is_some() {
            let removal = ["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"];
            let _gone = Command::new("find").arg(&self.cgroup).args(removal).stderr(Stdio::null()).status();
        }
        if self.cgroup.exists() {
            // What ends a test must not fail another one.
            let _unseen =
                writeln!(std::io::stderr(), "{} is left behind: processes in it do not end", self.cgroup.display());
        }
    }
}

/// Says whether the programs that machines are made with are here.
pub(crate) fn can_boot(test: &str) -> bool {
    ["unshare", "nsenter", "ip", "dpkg-deb", "objdump", "strip"].iter().all(|name| tool(name, test).is_some())
}
