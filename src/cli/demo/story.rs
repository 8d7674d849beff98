//! The story: what is done, what was seen, and whether that is what was told.

use std::time::{Duration, Instant};

use super::{
    app::{OpenCall, call},
    mesh::Mesh,
};

/// How long a cut may take: five times what is promised.
const CUT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn say(text: &str) {
    // The story goes on where nobody reads it: its end is also told by the status.
    let _unheard = crate::cli::output::line(text);
}

/// Counts the steps, and remembers whether each came out as told.
struct Teller {
    step: usize,
    as_told: bool,
}

impl Teller {
    fn step(&mut self, title: &str) {
        self.step += 1;
        say(&format!("\n{}. {title}", self.step));
    }

    fn saw(&mut self, text: &str) {
        say(&format!("   {text}"));
    }

    fn expect(&mut self, held: bool, text: &str) {
        self.as_told &= held;
        say(&format!("   {} {text}", if held { "ok:" } else { "NOT AS TOLD:" }));
    }
}

/// Tells the story; returns whether every step came out as told.
pub(super) async fn tell(mesh: &mut Mesh) -> anyhow::Result<bool> {
    let mut teller = Teller { step: 0, as_told: true };
    refused_by_default(mesh, &mut teller).await?;
    allowed_by_intention(mesh, &mut teller).await?;
    survives_the_leader(mesh, &mut teller).await?;
    cut_by_removal(mesh, &mut teller).await?;
    say(if teller.as_told { "\nEvery step came out as told." } else { "\nNot every step came out as told." });
    Ok(teller.as_told)
}

async fn refused_by_default(mesh: &mut Mesh, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("Nobody may call anybody until somebody says so");
    teller.saw("web (virtual machine) calls api (ECS task) through its local listener:");
    match call(mesh.listener("web", "api")).await {
        Err(refusal) => teller.expect(true, &format!("refused: {refusal}")),
        Ok((answer, _)) => teller.expect(false, &format!("answered: {answer}")),
    }
    let why = command(mesh, teller, &["intention", "explain", "web", "api"]).await;
    teller.expect(why.is_some(), "the mesh says why");
    Ok(())
}

async fn allowed_by_intention(mesh: &mut Mesh, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("One intention allows it");
    let created = command(mesh, teller, &["intention", "create", "--allow", "web", "api"]).await;
    teller.expect(created.is_some(), "the intention is written");
    let listener = mesh.listener("web", "api");
    let (answer, duration) = mesh.eventually("the call to be allowed", async |_| call(listener).await.ok()).await?;
    teller.expect(true, &format!("answered in {:.1} ms: {answer}", duration.as_secs_f64() * 1000.0));

    let mut open = OpenCall::start(listener).await?;
    let _ticks = open.listen().await;
    for (service, side) in [
        ("api", "the agent beside api proved its caller to be"),
        ("web", "the agent beside web proved to have reached"),
    ] {
        let connections = mesh.connections(service).await.unwrap_or_default();
        let peer = connections.iter().find_map(|one| Some(one.get("peer")?.as_str()?.to_owned()));
        let held = peer.as_ref().is_some_and(|peer| peer.starts_with("spiffe://"));
        teller.expect(held, &format!("{side} {}", peer.as_deref().unwrap_or("(nobody)")));
    }
    let other = call(mesh.listener("api", "db")).await;
    teller.expect(other.is_err(), "api (ECS task) still may not call db (Kubernetes pod): nobody said so");
    Ok(())
}

async fn survives_the_leader(mesh: &mut Mesh, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("The leader dies while calls go on");
    let leader = mesh.eventually("a leader", async |mesh: &mut Mesh| mesh.leader().await).await?;
    let listener = mesh.listener("web", "api");
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let calls = tokio::spawn(async move {
        let (mut made, mut failed) = (0, 0);
        while stopped.try_recv().is_err() {
            made += 1;
            failed += usize::from(call(listener).await.is_err());
        }
        (made, failed)
    });
    let start = Instant::now();
    mesh.kill_server(&leader).await?;
    teller.saw(&format!("{leader} was the leader; it got SIGKILL"));
    let killed = leader.clone();
    let next = mesh
        .eventually("another leader", async |mesh: &mut Mesh| mesh.leader().await.filter(|next| *next != killed))
        .await?;
    teller.expect(true, &format!("{next} leads after {:.1} s", start.elapsed().as_secs_f64()));
    let written = mesh.weft(&["intention", "create", "--allow", "web", "db"]).await;
    teller.expect(written.is_ok(), "the two servers that are left accept a write");
    let db = mesh.listener("web", "db");
    let answer = mesh.eventually("that write to take effect", async |_| call(db).await.ok()).await?.0;
    teller.expect(true, &format!("and it takes effect: {answer}"));
    let _still_running = stop.send(());
    let (made, failed) = calls.await?;
    teller.expect(failed == 0 && made > 0, &format!("{made} calls from web to api went on meanwhile, {failed} failed"));
    Ok(())
}

async fn cut_by_removal(mesh: &mut Mesh, teller: &mut Teller) -> anyhow::Result<()> {
    teller.step("The intention is removed, and the open connection is cut");
    let mut open = OpenCall::start(mesh.listener("web", "api")).await?;
    while open.listen().await.is_some_and(|ticks| ticks < 3) {}
    let ticks = open.listen().await;
    teller.expect(ticks.is_some(), &format!("a call is open; api has said {} ticks so far", ticks.unwrap_or(0)));
    let start = Instant::now();
    let cut = tokio::spawn(tokio::time::timeout(CUT_DEADLINE, async move {
        while open.listen().await.is_some() {}
        start.elapsed()
    }));
    let removed = command(mesh, teller, &["intention", "delete", "web", "api"]).await;
    teller.expect(removed.is_some(), "the intention is gone");
    match cut.await? {
        Ok(after) => {
            teller.expect(true, &format!("the open call was cut {} ms after that was typed", after.as_millis()))
        }
        Err(_) => teller.expect(false, &format!("the open call still ticks {} s later", CUT_DEADLINE.as_secs())),
    }
    let again = call(mesh.listener("web", "api")).await;
    teller.expect(again.is_err(), "and the next call is refused again");
    Ok(())
}

/// Shows a command as it would be typed, runs it and shows what it printed.
async fn command(mesh: &Mesh, teller: &mut Teller, arguments: &[&str]) -> Option<String> {
    teller.saw(&format!("$ weft {}", arguments.join(" ")));
    match mesh.weft(arguments).await {
        Ok(printed) => {
            for line in printed.lines() {
                teller.saw(&format!("  {line}"));
            }
            Some(printed)
        }
        Err(error) => {
            teller.saw(&format!("  {error:#}"));
            None
        }
    }
}

/// Says what to try by hand while everything is still up.
pub(super) fn invite(mesh: &Mesh) {
    let program = std::env::current_exe().map_or_else(|_| "weft".to_owned(), |path| path.display().to_string());
    let listener = mesh.listener("web", "api");
    say(&format!(
        "\nThe mesh stays up until Ctrl-C. In another terminal:\n\n  \
         export WEFT_HTTP_ADDR={} WEFT_HTTP_TOKEN={}\n  \
         alias weft={program}\n  \
         weft status\n  \
         weft catalog nodes\n  \
         weft intention list\n  \
         curl http://{listener}/          # as web, to api: refused\n  \
         weft intention create --allow web api\n  \
         curl http://{listener}/          # answered\n  \
         curl -N http://{listener}/ticks  # stays open; now delete the intention\n  \
         weft intention delete web api",
        mesh.http_address(),
        mesh.token,
    ));
}
