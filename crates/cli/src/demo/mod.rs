//! A hub and four devices in one process, over real loopback sockets, under live edits.

mod edits;
mod report;
mod world;

use std::time::{Duration, Instant};

use crate::output::{CliError, ErrorCode, Output};
use edits::Editor;
use report::{LagProbe, Summary};
use world::World;

/// The pause between two edits.
const PACE: Duration = Duration::from_millis(20);
/// How often a device goes away, or comes back.
const OUTAGE_EVERY: Duration = Duration::from_secs(3);
/// How often a line tells how it goes.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the databases have to become equal after the last edit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until `length` is over, or ^C.
pub(crate) async fn run(length: Option<Duration>, output: &mut Output) -> Result<(), CliError> {
    let mut world = World::start().await?;
    announce(&world, output)?;
    let mut editor = Editor::new();
    let mut probe = LagProbe::start(&world)?
        .ok_or_else(|| CliError::new(ErrorCode::Failed, "the demo's tablet has no bugs"))?;
    edit_until(length, &mut world, &mut editor, &mut probe, output).await?;
    world.end_outage().await?;
    let stopped = Instant::now();
    let converged = world.converge(PATIENCE).await?;
    let summary = Summary::new(&world, &editor, &probe, converged, stopped.elapsed())?;
    summary.print(output)?;
    world.shutdown().await;
    if converged { Ok(()) } else { Err(CliError::new(ErrorCode::Failed, "the databases did not converge")) }
}

async fn edit_until(
    length: Option<Duration>,
    world: &mut World,
    editor: &mut Editor,
    probe: &mut LagProbe,
    output: &Output,
) -> Result<(), CliError> {
    let end = async {
        match length {
            Some(length) => tokio::time::sleep(length).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    };
    tokio::pin!(end);
    let mut pace = tokio::time::interval(PACE);
    let mut outage = tokio::time::interval_at(tokio::time::Instant::now() + OUTAGE_EVERY, OUTAGE_EVERY);
    let mut line = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            _ = pace.tick() => {
                editor.step(world)?;
                if let Some(id) = editor.take_last() {
                    probe.wrote(id);
                }
            }
            seen = probe.next() => seen?,
            _ = outage.tick() => world.toggle_outage().await?,
            _ = line.tick() => output.note(report::progress(world, editor, probe)),
        }
    }
}

fn announce(world: &World, output: &mut Output) -> Result<(), CliError> {
    let page = format!("http://{}/", world.admin());
    if output.json() {
        // Standard output has the summary alone.
        output.note(format_args!("page      {page}"));
        return Ok(());
    }
    output.line(format_args!("page      {page}"))?;
    for line in world.describe() {
        output.line(line)?;
    }
    output.line(format_args!("files     {} (removed at the end)", world.path().display()))?;
    output.flush()
}
