//! `weft intention test`: expectations as code, held against the servers' rules or against those in files.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, ValueEnum};
use wire::{
    asked_request::AskedRequestError,
    client::ApiError,
    decode::from_value,
    expectation::{Expectations, Judged},
};

use super::judge::Judge;
use crate::cli::{
    ApiOptions,
    config_file::ConfigFile,
    output::{self, printable, table},
};

/// Is the form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For CI systems: JUnit's XML.
    Junit,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    /// Files of expectations, in HCL or JSON: `Expect = [{ Source, Destination, Method, Path, Headers, JWT, Decision, Rule }]`
    #[arg(required = true, value_name = "FILE")]
    expectations: Vec<PathBuf>,
    /// Hold them against the config entries in this file, and ask no server; may be given several times
    #[arg(long = "file", value_name = "ENTRY")]
    files: Vec<PathBuf>,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    output: Form,
}

pub(super) async fn run(test: &Test, options: &ApiOptions) -> anyhow::Result<ExitCode> {
    let judge = Judge::new(&test.files, options)?;
    let mut report = Vec::new();
    for path in &test.expectations {
        let what = || format!("reading `{}`", path.display());
        let Expectations(all) = from_value(ConfigFile::read(path)?.into_value(), "").with_context(what)?;
        for expectation in &all {
            let pair = expectation.pair(&options.namespace).map_err(anyhow::Error::msg).with_context(what)?;
            report.push(match judge.explain(&pair, expectation.request.as_ref()).await {
                Ok(found) => expectation.judge(Ok(&found)),
                Err(error) if is_about_the_request(&error) => expectation.judge(Err(&error.to_string())),
                Err(error) => return Err(error),
            });
        }
    }
    match test.output {
        Form::Json => output::line(&output::json(&report)?)?,
        Form::Junit => output::text(&junit(&report))?,
        Form::Table => output::line(&rows(&report))?,
    }
    let holds = report.iter().all(|one| one.holds);
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Reports whether it is one request that has no answer, which fails its expectation; a server that has none ends the test.
fn is_about_the_request(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<ApiError>().and_then(ApiError::status);
    error.is::<AskedRequestError>() || status == Some(http::StatusCode::BAD_REQUEST)
}

fn rows(report: &[Judged]) -> String {
    let row = |one: &Judged| {
        let word = if one.holds { "ok" } else { "FAILED" };
        vec![word.to_owned(), one.name.clone(), one.expected.clone(), one.found.clone()]
    };
    let failed = report.iter().filter(|one| !one.holds).count();
    let rows = table(&["Result", "Expectation", "Expected", "Found"], report.iter().map(row).collect(), "");
    format!("{rows}\n{} expectations, {failed} failed", report.len())
}

fn junit(report: &[Judged]) -> String {
    let failed = report.iter().filter(|one| !one.holds).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"intentions\" tests=\"{}\" failures=\"{failed}\">\n",
        report.len()
    );
    for one in report {
        let name = escaped(&one.name);
        if one.holds {
            text += &format!("  <testcase classname=\"intentions\" name=\"{name}\"/>\n");
        } else {
            let why = escaped(&format!("expected {}; found {}", one.expected, one.found));
            text += &format!(
                "  <testcase classname=\"intentions\" name=\"{name}\">\n    <failure message=\"{why}\"/>\n  </testcase>\n"
            );
        }
    }
    text + "</testsuite>\n"
}

/// Writes text as the value of an attribute, without what XML cannot hold.
fn escaped(text: &str) -> String {
    let mut written = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => written += "&amp;",
            '<' => written += "&lt;",
            '>' => written += "&gt;",
            '"' => written += "&quot;",
            c => written.push(c),
        }
    }
    written
}
