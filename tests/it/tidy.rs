//! The house stays as its papers say: who imports whom, how files are named and how long they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{PATIENCE, output_within, root};

const LINES_MAX: usize = 600;

fn rust_files() -> Vec<(PathBuf, String)> {
    fn gather(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["src", "catalog", "wire", "server", "agent", "connectors", "tests", "benches"] {
        if root().join(folder).is_dir() {
            gather(&root().join(folder), &mut found);
        }
    }
    assert!(found.len() > 50, "found only {} files: is this the right folder?", found.len());
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = [
        ("weft", vec!["server", "agent", "connectors", "wire", "catalog"]),
        ("server", vec!["wire", "catalog"]),
        ("agent", vec!["wire", "catalog"]),
        ("connectors", vec!["wire", "catalog"]),
        ("wire", vec!["catalog"]),
        ("catalog", vec![]),
    ]
    .into_iter()
    .map(|(name, imports)| (name, imports.into_iter().collect()))
    .collect();
    let mut asked = Command::new(env!("CARGO"));
    asked.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(root());
    let output = output_within(&mut asked, PATIENCE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "a crate was added or removed: say who may import it");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let imported = dependency["name"].as_str().unwrap();
            if names.contains(imported) {
                assert!(allowed[name].contains(imported), "{name} must not import {imported}");
            }
        }
    }
}

#[test]
fn the_catalog_does_no_io_and_reads_no_clock() {
    for (path, text) in rust_files() {
        if !path.starts_with(root().join("catalog/src")) || path.ends_with("golden.rs") {
            continue;
        }
        for word in [
            "tokio",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "SystemTime",
            "Instant::now",
            "std::thread",
            "HashMap",
        ] {
            assert!(!text.contains(word), "{} says `{word}`", path.display());
        }
    }
}

#[test]
fn only_the_crypto_module_calls_the_crypto_library() {
    for (path, text) in rust_files() {
        let is_crypto = path.starts_with(root().join("wire/src/crypto")) || path.ends_with("wire/src/crypto.rs");
        if !is_crypto && !path.ends_with("tests/it/tidy.rs") {
            // webpki and rustls name their own algorithms after the library; those are not calls of it.
            let text = text.replace("webpki::aws_lc_rs::", "").replace("rustls::crypto::aws_lc_rs::", "");
            assert!(!text.contains("aws_lc_rs::"), "{} calls aws_lc_rs past wire::crypto", path.display());
        }
    }
}

#[test]
fn files_are_short_and_hold_no_left_overs() {
    for (path, text) in rust_files() {
        if path.ends_with("tests/it/tidy.rs") {
            continue;
        }
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{shown} has {lines} lines: find the rooms in it");
        assert!(!path.ends_with("mod.rs"), "{shown}: write the module beside its folder");
        for word in ["todo!(", "unimplemented!(", "dbg!(", "TODO", "FIXME", "XXX", "#[ignore", "fn finding_"] {
            assert!(!text.contains(word), "{shown} says `{word}`");
        }
    }
}

#[test]
fn the_papers_name_every_room_and_the_rooms_are_there() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in
        ["src", "catalog", "wire", "server", "agent", "connectors", "terraform", "charts", "tests", "packaging", "docs"]
    {
        assert!(root().join(room).is_dir(), "there is no folder {room}");
        assert!(architecture.contains(&format!("`{room}/")), "ARCHITECTURE.md does not name `{room}/`");
    }
    for paper in ["README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "deny.toml", "Cargo.lock", ".ci/run"] {
        assert!(root().join(paper).is_file(), "there is no {paper}");
    }
}

/// Returns how a heading is pointed at, as GitHub makes it: lower case, words joined by hyphens, nothing else.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns the headings of a paper, as they are pointed at.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_block = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        is_block ^= line.starts_with("```");
        if let Some((_, heading)) =
            line.split_once("# ").filter(|(hashes, _)| !is_block && hashes.chars().all(|c| c == '#'))
        {
            found.insert(anchor(heading));
        }
    }
    found
}

#[test]
fn what_the_papers_point_at_is_there() {
    let mut papers: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "packaging/README.md",
        "benches/side_by_side/README.md",
    ]
    .map(|paper| root().join(paper))
    .into();
    papers.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    let mut checked = 0;
    for paper in papers.iter().filter(|paper| paper.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(paper).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { paper.clone() } else { paper.parent().unwrap().join(file) };
            assert!(file.exists(), "{} points at {target}", paper.display());
            if !heading.is_empty() {
                let known = anchors(&std::fs::read_to_string(&file).unwrap());
                assert!(known.contains(heading), "{} points at {target}, where only {known:?} are", paper.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 30, "found only {checked} links");
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let sources: BTreeMap<String, String> = rust_files()
        .into_iter()
        .map(|(path, text)| (path.strip_prefix(root()).unwrap().display().to_string(), text))
        .collect();
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        // A cell lists tests in backticks, then their file in backticks and parentheses.
        let mut tests = Vec::new();
        for (at, word) in row.split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
            let is_file =
                word.ends_with(".rs") && row.split('`').nth(at - 1).is_some_and(|before| before.ends_with('('));
            if !is_file {
                tests.push(word);
                continue;
            }
            let text = sources.get(word).unwrap_or_else(|| panic!("docs/security.md names {word}"));
            for test in tests.drain(..).filter(|test| test.contains('_')) {
                assert!(text.contains(&format!("fn {test}(")), "docs/security.md names {test} in {word}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "found only {checked} tests in docs/security.md");
}

/// Lists the ids that a line names: letters and a number, or a bare number where faults are told of.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| {
        let digits = word.trim_start_matches(|character: char| character.is_ascii_uppercase());
        word.len() <= 4 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whoever looks for a fault or a promise finds it, tested or not.
#[test]
fn the_security_page_leaves_no_fault_and_no_promise_out() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let faults = (1..=44).map(|number| number.to_string());
    let promises = (1..=13).map(|number| format!("P{number}"));
    for (heading, wanted) in
        [("## Faults and their tests", faults.collect::<Vec<_>>()), ("## Promises and their tests", promises.collect())]
    {
        let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("{heading} is on the page"));
        let section = section.split("\n## ").next().unwrap();
        let told = |line: &str| match line.strip_prefix("| ") {
            Some(row) => row.split('|').next().unwrap_or_default().to_owned(),
            None => line.to_owned(),
        };
        let lines: Vec<String> = section.lines().map(told).collect();
        let named: BTreeSet<&str> = lines.iter().flat_map(|line| ids(line)).collect();
        let missing: Vec<&String> = wanted.iter().filter(|id| !named.contains(id.as_str())).collect();
        assert!(missing.is_empty(), "{heading}: nothing is said of {missing:?}");
    }
}

#[test]
fn nothing_on_the_security_page_is_tested_and_without_a_test() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    for (heading, list) in [
        ("## Bad inputs and their tests", "Rows without a test:"),
        ("## Faults and their tests", "Faults without a test:"),
    ] {
        let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("{heading} is on the page"));
        let section = section.split("\n## ").next().unwrap();
        let (table, list) = section.split_once(list).unwrap_or_else(|| panic!("{list} stands under {heading}"));
        let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
        let tested: BTreeSet<&str> = rows.flat_map(ids).collect();
        assert!(tested.len() > 20, "{heading}: {tested:?}");
        // What is in parentheses says why, and may name others.
        let untested = list.split('(').flat_map(|part| ids(part.rsplit(')').next().unwrap_or(part)));
        let both: Vec<&str> = untested.filter(|id| tested.contains(id)).collect();
        assert!(both.is_empty(), "{heading}: {both:?} stand in the table and in the list of those without a test");
    }
}

/// A dependency that nobody names costs every build and every audit.
#[test]
fn every_dependency_is_used() {
    let manifests = ["catalog", "wire", "server", "agent", "connectors", ""];
    let mut found = 0;
    for room in manifests {
        let folder = root().join(room);
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        // The root's own package begins below the workspace's tables.
        let manifest = manifest.rsplit_once("\n[dependencies]").expect("a table of dependencies").1;
        // Tests of several rooms make tokens with what the checker of tokens is tested with.
        let mut sources = vec![folder.join("src"), root().join("wire/src/jwt/testing.rs")];
        if room == "connectors" {
            let stand_in = root().join("tests/it/harness/kubernetes");
            sources.extend([stand_in.with_extension("rs"), stand_in]);
        }
        if room.is_empty() {
            sources.extend([folder.join("tests"), folder.join("benches")]);
        }
        let code: String = rust_files()
            .into_iter()
            .filter(|(path, _)| sources.iter().any(|source| path.starts_with(source)))
            .map(|(_, text)| text)
            .collect();
        for name in manifest.lines().filter_map(|line| line.split_once(".workspace").map(|(name, _)| name)) {
            found += 1;
            let ident = name.replace('-', "_");
            let is_named = ["::", ";"].iter().any(|end| code.contains(&format!("{ident}{end}")));
            assert!(is_named, "{}/Cargo.toml: nothing names `{name}`", if room.is_empty() { "." } else { room });
        }
    }
    assert!(found > 60, "only {found} dependencies were looked at");
}

#[test]
fn the_stand_in_for_an_api_server_stays_small() {
    let of_it = |path: &Path| path.to_string_lossy().contains("tests/it/harness/kubernetes");
    let texts = rust_files().into_iter().filter(|(path, _)| of_it(path)).map(|(_, text)| text);
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let lines: usize = texts.map(|text| text.lines().filter(is_code).count()).sum();
    // Whatever it does beyond what weft asks of a server is another thing that can be wrong.
    assert!((500..800).contains(&lines), "{lines} lines without blank ones and comments");
}
