//! What weft is shipped in: read by the programs that are to read it, where they are here, and searched everywhere for what
//! must not be in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{entries, root, succeed, tool};

/// The most that `systemd-analyze security` may find exposed, in tenths.
const EXPOSURE_MAX: u32 = 15;
/// The same of an agent that answers names on port 53.
const EXPOSURE_WITH_DNS_MAX: u32 = 20;

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

/// Copies a unit to a directory in such a way that it can be judged there: its program has to exist, and weft is not installed
/// here.
#[track_caller]
fn stage(unit: &Path, directory: &Path) -> PathBuf {
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/weft "), "{} starts weft", unit.display());
    let staged = directory.join(unit.file_name().unwrap());
    fs::write(&staged, text.replace("=/usr/bin/weft ", "=/bin/true ")).unwrap();
    staged
}

/// Checks that systemd understands a unit, and finds no more exposed than so many tenths.
#[track_caller]
fn judge(analyze: &Path, unit: &Path, exposure_max: u32) {
    // Without this flag a key that systemd does not know is only warned of.
    succeed(Command::new(analyze).args(["verify", "--man=no", "--recursive-errors=no"]).arg(unit));
    let threshold = format!("--threshold={exposure_max}");
    succeed(Command::new(analyze).args(["security", "--offline=true", "--no-pager", &threshold]).arg(unit));
}

#[test]
fn systemd_units_are_understood_and_expose_little() {
    let test = "systemd_units_are_understood_and_expose_little";
    let Some(analyze) = tool("systemd-analyze", test) else { return };
    let directory = tempfile::tempdir().unwrap();
    let packaged = entries(&root().join("packaging/systemd"));
    let units = packaged.iter().filter(|path| path.extension().is_some_and(|extension| extension == "service"));
    let staged: Vec<PathBuf> = units.map(|unit| stage(unit, directory.path())).collect();
    assert!(staged.len() >= 3, "{staged:?}");
    for unit in &staged {
        judge(&analyze, unit, EXPOSURE_MAX);
    }
    // With the right to a port below 1024.
    let unit = directory.path().join("weft-agent.service");
    let drop_in = directory.path().join("weft-agent.service.d/dns.conf");
    fs::create_dir(drop_in.parent().unwrap()).unwrap();
    fs::copy(root().join("packaging/systemd/dns-port-53.conf"), drop_in).unwrap();
    judge(&analyze, &unit, EXPOSURE_WITH_DNS_MAX);
}

#[test]
fn the_image_holds_one_program_and_runs_it_as_nobody() {
    let text = read("packaging/container/Containerfile").replace("\\\n", " ");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let instructions: BTreeSet<&str> = lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        instructions,
        BTreeSet::from(["COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "USER"]),
        "nothing runs while it is built"
    );
    for line in [
        "FROM scratch",
        "USER 65532:65532",
        "ENTRYPOINT [\"/usr/bin/weft\"]",
        "COPY --chown=0:0 --chmod=0555 weft /usr/bin/weft",
    ] {
        let instruction = line.split_whitespace().next();
        let same: Vec<&str> =
            lines.iter().copied().filter(|other| other.split_whitespace().next() == instruction).collect();
        assert_eq!(same, [line]);
    }
}

/// Returns the instructions of a Containerfile by their first words; of several with the same one, the last.
fn instructions(path: &str) -> BTreeMap<String, String> {
    let text = read(path).replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

#[test]
fn the_image_that_redirects_is_the_other_one_and_nft() {
    let plain = instructions("packaging/container/Containerfile");
    let redirecting = instructions("packaging/container/redirect.Containerfile");
    for same in ["COPY", "ENTRYPOINT"] {
        assert_eq!(plain[same], redirecting[same], "whatever runs from the one runs from the other");
    }
    assert!(redirecting["RUN"].split(' ').any(|word| word == "nftables"), "{redirecting:?}");
    assert!(redirecting["ENV"].split(['=', ':']).any(|folder| folder == "/usr/sbin"), "nft is found: {redirecting:?}");

    // The injector starts what is there, as a user that the image does not have to know.
    let directory = tempfile::tempdir().unwrap();
    let pod = directory.path().join("pod.json");
    fs::write(&pod, r#"{"apiVersion": "v1", "kind": "Pod", "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]}}"#).unwrap();
    let (pod, root) = (pod.display().to_string(), "ab".repeat(32));
    let told = [
        "inject",
        "--image",
        "one",
        "--redirect-image",
        "one",
        "--server",
        "s:8300",
        "--root-fingerprint",
        &root,
        "--audience",
        "weft",
        "--file",
        &pod,
    ];
    let injected = crate::harness::weft(&told, &[]);
    assert_eq!(injected.status, Some(0), "{injected:?}");
    let program = redirecting["COPY"].split(' ').next_back().unwrap();
    assert!(injected.stdout.contains(program), "{program} in {}", injected.stdout);
    assert_eq!(injected.stdout.matches("runAsUser:").count(), 2, "both say as whom they run: {}", injected.stdout);
}
