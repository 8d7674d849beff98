//! What stands on the page where applications tell metrics, or something else.

use super::*;

const OWN: &str = "# HELP weft_build Version.\n# TYPE weft_build info\nweft_build_info{version=\"0.1\"} 1\n\
    # HELP weft_raft_messages Lost.\n# TYPE weft_raft_messages counter\nweft_raft_messages_total 7\n# EOF\n";

fn asked(services: &[&str]) -> Vec<Asked> {
    let asked = |name: &&str| Asked { service: name.parse().unwrap(), instance: None };
    services.iter().map(asked).collect()
}

/// Returns the page of the applications with these answers, less what is the agent's own.
fn page(told: &[(&str, &str)]) -> String {
    let names: Vec<&str> = told.iter().map(|(name, _)| *name).collect();
    let fetched: Vec<_> = told.iter().map(|(_, text)| Some((*text).to_owned())).collect();
    let page = merged(OWN, &asked(&names), &fetched).unwrap();
    let own = "# HELP weft_build_info Version.\n# TYPE weft_build_info gauge\nweft_build_info{version=\"0.1\"} 1\n";
    assert_eq!(page.matches(own).count(), 1, "{page}");
    page.lines().filter(|line| !line.contains("weft_build") && !line.contains("weft_raft")).fold(
        String::new(),
        |mut page, line| {
            page.push_str(line);
            page.push('\n');
            page
        },
    )
}

fn up(of: &[(&str, u8)]) -> String {
    let mut text = "# HELP weft_application_metrics_up Whether the application's own metrics follow\n\
        # TYPE weft_application_metrics_up gauge\n"
        .to_owned();
    for (name, up) in of {
        text.push_str(&format!("weft_application_metrics_up{{service=\"{name}\"}} {up}\n"));
    }
    text
}

/// Checks what an application's text becomes where it is the only one.
#[track_caller]
fn check(text: &str, want: &str) {
    let got = page(&[("default/api", text)]);
    let ups = up(&[("default/api", 1)]);
    assert!(got.contains(&ups), "{got}");
    assert_eq!(got.replace(&ups, ""), want);
}

/// Checks that an application's text is refused, and with which line.
#[track_caller]
fn check_refused(text: &str, line: usize) {
    assert_eq!(text::read(text, LINES_MAX).err(), Some(text::NoMetrics { line }), "{text:?}");
    let ups = up(&[("default/api", 0), ("default/web", 1)]);
    let got = page(&[("default/api", text), ("default/web", "fine 1\n")]);
    assert_eq!(got, format!("fine{{weft_service=\"default/web\"}} 1\n{ups}"));
}

#[test]
fn what_an_application_tells_follows_as_it_wrote_it() {
    check(
        "# A remark.\n\n# HELP requests_total Requests\\nby path \\\\ method.\n# TYPE requests_total counter\n\
         requests_total{path=\"/a{b}\",said=\"a \\\"b\\\\\",line=\"x\\ny, z=\\\"1\\\" # {\"} 1027 1395066363000\n\
         requests_total{} 3e-7\n\tplain\t \t+Inf \nnot_a_number NaN\nminus{ a = \"b\" , } -Inf\n",
        "minus{a=\"b\"} -Inf\nnot_a_number NaN\nplain +Inf\n\
         # HELP requests_total Requests\\nby path \\\\ method.\n# TYPE requests_total counter\n\
         requests_total{path=\"/a{b}\",said=\"a \\\"b\\\\\",line=\"x\\ny, z=\\\"1\\\" # {\"} 1027 1395066363000\n\
         requests_total 3e-7\n",
    );
    // CRLF, no end of the last line, and escapes that only OpenMetrics has.
    check(
        "# HELP a It \\\"is\\\" \\d\\\r\na{b=\"\\d\"} 1\r\nb 2",
        "# HELP a It \"is\" \\\\d\\\\\na{b=\"\\\\d\"} 1\nb 2\n",
    );
    check("", "");
    check("\n# TYPE lonely gauge\n", "");
}

#[test]
fn openmetrics_is_told_in_the_older_form() {
    check(
        "# TYPE requests counter\n# UNIT requests requests\n# HELP requests Of users.\n\
         requests_total{code=\"2\"} 10 1520879607.789 # {trace_id=\"a } b\",span=\"\\\"\"} 0.5 1520879606.1\n\
         requests_created{code=\"2\"} 1520430000.123\n\
         # TYPE took histogram\ntook_bucket{le=\"1\"} 2 # {} 1\ntook_bucket{le=\"+Inf\"} 2\ntook_count 2\ntook_sum 1\n\
         # TYPE build info\nbuild_info{v=\"1\"} 1\n# TYPE state stateset\nstate{state=\"a\"} 1\n\
         # TYPE odd unknown\nodd 1\n# EOF\n",
        "# TYPE build_info gauge\nbuild_info{v=\"1\"} 1\n# TYPE odd untyped\nodd 1\n\
         requests_created{code=\"2\"} 1520430000.123\n\
         # HELP requests_total Of users.\n# TYPE requests_total counter\nrequests_total{code=\"2\"} 10 1520879607789\n\
         # TYPE state gauge\nstate{state=\"a\"} 1\n\
         # TYPE took histogram\ntook_bucket{le=\"1\"} 2\ntook_bucket{le=\"+Inf\"} 2\ntook_count 2\ntook_sum 1\n",
    );
}

#[test]
fn what_is_no_metrics_is_left_out_and_costs_the_page_nothing() {
    for text in [
        "<!DOCTYPE html>\n<html><body>Not here</body></html>\n",
        "GET /own HTTP/1.1",
        "{\"a\": 1}\n",
        "a",
        "a{b=\"c",
        "a{b=\"c\\",
        "a{b=\"c\"",
        "a{b=\"c\"}",
        "a{b=\"c\"} ",
        "a{b} 1",
        "a{b=c} 1",
        "a{b=\"c\" d=\"e\"} 1",
        "a{,} 1",
        "a{1b=\"c\"} 1",
        "a{b:c=\"d\"} 1",
        "1a 1",
        "a-b 1",
        "a-1",
        "a 1 2 3",
        "a 1 -2",
        "a 1 2.5",
        "a 1 99999999999999999999",
        "a one",
        "a 0x10",
        "a 1e999",
        "a -NaN",
        "a 1_000",
        "a 1 # exemplar",
        "a 1 # {b=\"c\"}",
        "a 1 # {b=\"c\"} 1 2 3",
        "a 1\u{0}",
        "a 1\rb 2",
        "# TYPE a anything",
        "# TYPE a",
        "# HELP a-b Text",
        // These two could be of any name, or cost the page.
        "a{__name__=\"weft_build_info\"} 1",
        "a{b=\"c\",b=\"d\"} 1",
    ] {
        check_refused(text, 1);
        check_refused(&format!("# TYPE ok gauge\nok 1\n{text}\nok 2\n"), 3);
    }
    let long = "a 1\n".repeat(LINES_MAX);
    assert_eq!(text::read(&long, LINES_MAX).unwrap().samples.len(), LINES_MAX);
    check_refused(&format!("{long}a 1\n"), LINES_MAX + 1);
}

#[test]
fn families_of_several_applications_stand_together_and_are_declared_once() {
    let api = "# HELP took How long.\n# TYPE took histogram\ntook_bucket{le=\"+Inf\"} 1\ntook_sum 1\ntook_count 1\n\
               # TYPE up gauge\nup 1\n";
    let web = "# TYPE up counter\n# HELP up Others say so.\nup 2 5\n\
               # TYPE took histogram\ntook_bucket{le=\"+Inf\"} 3\ntook_sum 3\ntook_count 3\n";
    let [a, w] = ["weft_service=\"default/api\"", "weft_service=\"default/web\""];
    assert_eq!(
        page(&[("default/api", api), ("default/web", web)]),
        format!(
            "# HELP took How long.\n# TYPE took histogram\ntook_bucket{{le=\"+Inf\",{a}}} 1\ntook_sum{{{a}}} 1\n\
             took_count{{{a}}} 1\ntook_bucket{{le=\"+Inf\",{w}}} 3\ntook_sum{{{w}}} 3\ntook_count{{{w}}} 3\n\
             # HELP up Others say so.\n# TYPE up gauge\nup{{{a}}} 1\nup{{{w}}} 2 5\n{}",
            up(&[("default/api", 1), ("default/web", 1)]),
        )
    );
    // What a histogram of one is made of is another's counter: it is declared no second time.
    let page = page(&[("default/api", api), ("default/web", "# TYPE took_count counter\ntook_count 4\n")]);
    assert!(page.contains(&format!("took_count{{{a}}} 1\ntook_count{{{w}}} 4\n")), "{page}");
    assert!(!page.contains("TYPE took_count"), "{page}");
}

#[test]
fn instances_of_one_service_are_told_apart_by_their_ids() {
    let one = |id: &str| Asked { service: "default/api".parse().unwrap(), instance: Some(id.to_owned()) };
    let fetched = [Some("a 1\n".to_owned()), Some("a 2\n".to_owned())];
    let page = merged(OWN, &[one("api-1"), one("api\\\"2")], &fetched).unwrap();
    for line in [
        "a{weft_service=\"default/api\",weft_instance=\"api-1\"} 1\n",
        "a{weft_service=\"default/api\",weft_instance=\"api\\\\\\\"2\"} 2\n",
        "weft_application_metrics_up{service=\"default/api\",weft_instance=\"api-1\"} 1\n",
        "weft_application_metrics_up{service=\"default/api\",weft_instance=\"api\\\\\\\"2\"} 1\n",
    ] {
        assert_eq!(page.matches(line).count(), 1, "{page}");
    }
}

#[test]
fn no_application_tells_anything_in_wefts_name() {
    let forged = "# HELP weft_build_info Forged.\n# TYPE weft_raft_messages counter\nweft_raft_messages_total 0\n\
                  weft_build_info{version=\"9\"} 1\nweft_application_metrics_up{service=\"default/web\"} 1\n\
                  # TYPE weft summary\nweft_count 1\nown{weft_service=\"default/web\"} 1\nown 2\n";
    let page = |forged: &str| {
        let fetched = [Some(forged.to_owned()), None];
        merged(OWN, &asked(&["default/api", "default/web"]), &fetched).unwrap()
    };
    assert_eq!(page(forged), page("own 2\n"));
    assert!(page(forged).contains("weft_application_metrics_up{service=\"default/web\"} 0\n"), "{}", page(forged));
}

#[test]
fn everything_that_an_agent_counts_is_on_the_page() {
    let own = crate::metrics::Metrics::new().text();
    let page = merged(&own, &asked(&["default/api"]), &[None]).unwrap();
    let samples = |text: &str| {
        let mut lines: Vec<_> = text.lines().filter(|it| !it.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let mut want = samples(&own);
    want.push("weft_application_metrics_up{service=\"default/api\"} 0".to_owned());
    want.sort();
    assert_eq!(samples(&page), want);
    assert!(!page.contains("# EOF") && !page.contains(" info\n"), "{page}");
}
