//! The Debian package: built, installed, upgraded, removed and purged in a Debian system of its own.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{debian, output_within, root, succeed, tool};

/// How long a package may take to be built, or to come and go.
const INSTALLED: Duration = Duration::from_secs(300);

/// What is done in the Debian system, with `/packages/{old,new}.deb` in it; every line must succeed.
const STORY: &str = r#"
export DEBIAN_FRONTEND=noninteractive
is() { [ "$(eval "$1")" = "$2" ] || { echo "$1 gives $(eval "$1"), not $2"; exit 1; }; }

echo == installed
dpkg --install /packages/old.deb
is 'weft --version' "weft $RELEASE"
is 'stat -c "%a %U %G" /etc/weft' '750 root weft'
is 'stat -c "%a %U %G" /var/lib/weft' '700 weft weft'
is 'stat -c "%a %U" /usr/bin/weft' '755 root'
is 'getent passwd weft | cut -d: -f6,7' '/var/lib/weft:/usr/sbin/nologin'
is 'dpkg --verify weft | wc -l' 0
is 'find /usr/share/doc/weft -name "*.md" | grep -c .' "$PAGES"
setpriv --reuid=weft --regid=weft --init-groups weft validate /etc/weft
grep -q 'complete ' /usr/share/bash-completion/completions/weft
is "find / -xdev -path /proc -prune -o -path '*weft*' -perm /022 ! -type l -print" ''

echo == upgraded
echo '# of the machine' >> /etc/weft/agent.hcl
echo 'node = "vm-1"' > /etc/weft/join.hcl
setpriv --reuid=weft --regid=weft --init-groups sh -c 'echo identity > /var/lib/weft/identity.json'
dpkg --install /packages/new.deb
is "dpkg-query -W -f '\${Version}' weft" 99.0
is 'tail -n 1 /etc/weft/agent.hcl' '# of the machine'
is 'cat /etc/weft/join.hcl' 'node = "vm-1"'
is 'cat /var/lib/weft/identity.json' identity
is 'stat -c "%a %U %G" /var/lib/weft' '700 weft weft'

echo == removed
dpkg --remove weft
is 'command -v weft || true' ''
is 'tail -n 1 /etc/weft/agent.hcl' '# of the machine'
is 'cat /var/lib/weft/identity.json' identity

echo == purged
dpkg --install /packages/new.deb
dpkg --purge weft
is 'ls -d /etc/weft /var/lib/weft 2>/dev/null || true' ''
is 'find / -xdev -path /proc -prune -o -path "*weft*" ! -path "/packages*" ! -path "/var/log/*" -print' ''
"#;

/// Builds a package of this very binary, without what only a debugger reads, which would make it several times as large.
#[track_caller]
pub(crate) fn build(version: &str, output: &Path) -> PathBuf {
    let stripped = output.join("weft-stripped");
    succeed(Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_weft")));
    build_of(&stripped, version, output)
}

#[track_caller]
fn build_of(binary: &Path, version: &str, output: &Path) -> PathBuf {
    let mut build = Command::new(root().join("packaging/debian/build"));
    build.args(["--version", version, "--compression", "none", "--binary"]).arg(binary).arg("--output").arg(output);
    let built = output_within(&mut build, INSTALLED);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged_without_a_trace() {
    let test = "the_package_is_installed_upgraded_removed_and_purged_without_a_trace";
    if ["dpkg-deb", "objdump", "strip", "unshare", "chroot"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    let Some(debian) = debian(test) else { return };
    let directory = tempfile::tempdir().unwrap();
    for (version, name) in [(env!("CARGO_PKG_VERSION"), "old.deb"), ("99.0", "new.deb")] {
        std::fs::rename(build(version, directory.path()), directory.path().join(name)).unwrap();
    }
    let pages = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .filter(|page| page.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "md"));
    // The system itself stays as it is: all that changes is in memory, and gone with the namespace.
    let (base, packages) = (debian.display(), directory.path().display());
    let script = format!(
        "set -eu\nupper=$(mktemp -d)\nmount -t tmpfs none $upper\nmkdir $upper/upper $upper/work $upper/root\n\
         mount -t overlay overlay -o lowerdir={base},upperdir=$upper/upper,workdir=$upper/work $upper/root\n\
         mkdir $upper/root/packages\nmount --bind {packages} $upper/root/packages\nmount -t proc proc $upper/root/proc\n\
         exec chroot $upper/root /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
         RELEASE={} PAGES={} bash -euc '{}'",
        env!("CARGO_PKG_VERSION"),
        pages.count(),
        STORY.replace('\'', "'\\''"),
    );
    let mut story = Command::new("unshare");
    story.args(["--mount", "--pid", "--fork", "--kill-child", "bash", "-c", &script]);
    let told = output_within(&mut story, INSTALLED);
    let said = [&told.stdout[..], &told.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(told.status.success(), "{said}");
    assert!(said.contains("== purged"), "{said}");
}

#[test]
fn equal_input_gives_an_equal_package_with_settings_marked_as_such() {
    let test = "equal_input_gives_an_equal_package_with_settings_marked_as_such";
    if ["dpkg-deb", "objdump"].iter().any(|name| tool(name, test).is_none()) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // What is packaged does not matter here, only that it runs.
    let binary = directory.path().join("weft");
    std::fs::write(&binary, "#!/bin/sh\necho completions\n").unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let [one, other] = ["one", "other"].map(|name| build_of(&binary, "1.2.3", &directory.path().join(name)));
    assert_eq!(one.file_name(), other.file_name());
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap(), "the packages differ");
    let listed = |flag: &str| {
        let output = output_within(Command::new("dpkg-deb").arg(flag).arg(&one).arg("conffiles"), INSTALLED);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(listed("--info"), "/etc/weft/agent.hcl\n/etc/weft/redirect.env\n");
}
