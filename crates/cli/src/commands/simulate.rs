//! `blazedb simulate`: the topology file in the simulator, with everything that can go wrong.

use blazedb_sim::{Counts, Faults, SimulatedDatabase, TopologyProblem, Violation, databases};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::args::GlobalArgs;
use crate::load::load;
use crate::output::{CliError, ErrorCode, Output};

/// Seeds that are run if none is given.
const SEEDS: u64 = 10;

/// Arguments of `simulate`.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// Run this seed alone: the same seed gives the same run
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Transactions in each run, before everything heals
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub steps: u64,
    /// What breaks, divided by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    pub faults: Vec<Fault>,
}

/// What breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fault {
    /// Nodes crash and start again
    Crashes,
    /// Connections break, nodes are cut off from each other
    Partitions,
    /// Clocks are up to four minutes wrong
    Skew,
    /// All of these
    All,
    /// Nothing
    None,
}

/// Runs every database of the topology file and says which property does not hold, if one does not.
///
/// # Errors
/// [`ErrorCode::Config`] for what can't be simulated, [`ErrorCode::Failed`] for a violated property.
pub(crate) fn run(args: &SimulateArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let databases = databases(&load(global)?).map_err(|problem| refused(&problem))?;
    let has = |fault| args.faults.contains(&fault) || args.faults.contains(&Fault::All);
    let faults =
        Faults { crashes: has(Fault::Crashes), partitions: has(Fault::Partitions), skew: has(Fault::Skew) };
    for database in &databases {
        let (mut counts, mut virtual_ms) = (Counts::default(), 0);
        let seeds = args.seed.map_or(0..SEEDS, |seed| seed..seed.saturating_add(1));
        let runs = seeds.end - seeds.start;
        for seed in seeds {
            let report = database.simulate(seed, args.steps, faults);
            let report = report.map_err(|violation| violated(args, database, &violation, output))?;
            counts.add(&report.counts);
            virtual_ms += report.virtual_ms;
        }
        report(database, runs, &counts, virtual_ms, output)?;
    }
    Ok(())
}

fn report(
    database: &SimulatedDatabase,
    runs: u64,
    counts: &Counts,
    virtual_ms: u64,
    output: &mut Output,
) -> Result<(), CliError> {
    if output.json() {
        return output.line(json!({
            "database": database.name.as_str(),
            "nodes": database.nodes,
            "links": database.links(),
            "runs": runs,
            "holds": true,
            "transactions": counts.transactions,
            "sessions": counts.sessions,
            "messages": counts.messages,
            "crashes": counts.crashes,
            "refused": counts.refusals,
            "virtual_ms": virtual_ms,
        }));
    }
    output.line(format!(
        "{}: every property held in {runs} {}: {} nodes, {} links, {} transactions, {} sessions, {} messages, {} crashes",
        database.name,
        if runs == 1 { "run" } else { "runs" },
        database.nodes.len(),
        database.links(),
        counts.transactions,
        counts.sessions,
        counts.messages,
        counts.crashes,
    ))
}

/// The first property that does not hold, and how to have that again.
fn violated(
    args: &SimulateArgs,
    database: &SimulatedDatabase,
    violation: &Violation,
    output: &mut Output,
) -> CliError {
    let replay = replay(args, violation);
    if output.json() {
        let found = json!({
            "database": database.name.as_str(),
            "nodes": database.nodes,
            "holds": false,
            "property": violation.property,
            "seed": violation.seed,
            "step": violation.step,
            "at_ms": violation.at_ms,
            "detail": violation.detail,
            "replay": replay,
        });
        if let Err(error) = output.line(found) {
            return error;
        }
    }
    said(args, database, violation)
}

fn said(args: &SimulateArgs, database: &SimulatedDatabase, violation: &Violation) -> CliError {
    let text = format!(
        "database {}: the property `{}` does not hold with seed {}: {}",
        database.name, violation.property, violation.seed, violation.detail
    );
    CliError::new(ErrorCode::Failed, text).with_hint(format!("`{}` runs it again", replay(args, violation)))
}

fn replay(args: &SimulateArgs, violation: &Violation) -> String {
    let faults: Vec<String> = args
        .faults
        .iter()
        .filter_map(|fault| Some(fault.to_possible_value()?.get_name().to_owned()))
        .collect();
    format!("blazedb simulate --seed {} --steps {} --faults {}", violation.seed, args.steps, faults.join(","))
}

fn refused(problem: &TopologyProblem) -> CliError {
    CliError::new(ErrorCode::Config, format!("simulate: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_fails_the_command_and_says_how_to_see_it_again() {
        let spec = "[node]\nname = 'n'\ndata = 'd'\n[databases.bugs]\nplaintext = true\n";
        let spec = blazedb_hub::api::read_topology(spec, "t", blazedb_core::topology::PasswordRule::Optional);
        let found = databases(&spec.unwrap()).unwrap();
        let violation = Violation {
            seed: 7,
            step: 1,
            at_ms: 2,
            property: "leak",
            detail: "node 2 got it".to_owned(),
            replay: String::new(),
            trace: Vec::new(),
        };
        let args = SimulateArgs { seed: None, steps: 9, faults: vec![Fault::Crashes, Fault::Skew] };
        let error = said(&args, &found[0], &violation);
        assert_eq!((error.code, error.code.exit()), (ErrorCode::Failed, 1));
        assert!(error.message.contains("bugs: the property `leak` does not hold with seed 7: node 2 got it"));
        assert!(error.hint.unwrap().contains("blazedb simulate --seed 7 --steps 9 --faults crashes,skew"));
    }
}
