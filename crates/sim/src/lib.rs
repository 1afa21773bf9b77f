//! Simulated nodes: the real sessions, the real merging and the real store, under a virtual clock, over a network
//! that delays, breaks and partitions, on machines that crash and whose clocks are wrong.
//!
//! Everything follows from one seed: the same seed gives the same run. See `docs/simulator.md`.
//!
//! Invariants: no wall clock, no thread, no order of a hash table decides anything.

mod applier;
mod check;
mod config;
mod driver;
mod faults;
mod keys;
mod ledger;
mod network;
mod node;
mod patterns;
mod requests;
mod rng;
mod scale;
mod setup;
mod switch;
mod topology;
mod workload;
mod world;

use blazedb_store::StoreError;

pub use config::{LinkPlan, Shape, SimConfig, Switches};
pub use patterns::{Configuration, switch_patterns};
pub use scale::{Scale, simulate_hierarchy};
pub use setup::{LinkSetup, NodeSetup, Setup};
pub use topology::{Faults, SimulatedDatabase, TopologyProblem, databases};
pub use world::Counts;

use world::World;

/// A run in which every property held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened: equal for equal runs.
    pub fingerprint: u64,
    /// What happened, in numbers.
    pub counts: Counts,
    /// How long it took, in virtual milliseconds.
    pub virtual_ms: u64,
}

/// A run in which a property did not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "property {property} does not hold with seed {seed} after {step} events and {at_ms} virtual ms: {detail}\n\
     replay: {replay}"
)]
pub struct Violation {
    /// The seed that leads to it.
    pub seed: u64,
    /// How many events had happened.
    pub step: u64,
    /// Virtual time since the beginning, in milliseconds.
    pub at_ms: u64,
    /// The property, by the name of its checker; `store`, `wire` and `protocol` for what may never fail.
    pub property: &'static str,
    /// What was found.
    pub detail: String,
    /// How to have it again.
    pub replay: String,
    /// What happened, one line each, if the configuration asked for it.
    pub trace: Vec<String>,
}

/// What a checker found.
#[derive(Debug)]
pub(crate) struct Failure {
    property: &'static str,
    detail: String,
}

impl Failure {
    pub(crate) const fn new(property: &'static str, detail: String) -> Self {
        Self { property, detail }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new("store", error.to_string())
    }
}

/// Runs one simulation and checks every property.
///
/// # Errors
/// The first [`Violation`] that was found.
pub fn simulate(seed: u64, config: SimConfig) -> Result<Report, Box<Violation>> {
    finish(seed, &config, |config| World::new(seed, config), run)
}

/// Makes a world and runs it: what came of it, or what was found.
pub(crate) fn finish(
    seed: u64,
    config: &SimConfig,
    make: impl FnOnce(SimConfig) -> Result<World, Failure>,
    run: impl FnOnce(&mut World) -> Result<(), Failure>,
) -> Result<Report, Box<Violation>> {
    let mut world = make(config.clone()).map_err(|failure| violation(seed, config, None, failure))?;
    match run(&mut world) {
        Ok(()) => Ok(Report {
            seed,
            fingerprint: world.fingerprint(),
            counts: world.counts,
            virtual_ms: world.elapsed(),
        }),
        Err(failure) => Err(violation(seed, config, Some(&mut world), failure)),
    }
}

fn run(world: &mut World) -> Result<(), Failure> {
    while world.steps_left > 0 {
        world.step(u64::MAX)?;
    }
    world.heal()?;
    check::echo::settle(world)?;
    check_all(world)?;
    check::echo::check(world)?;
    check_all(world)?;
    if !world.config.views {
        check::echo::check_one_write(world)?;
    }
    check_all(world)
}

fn check_all(world: &mut World) -> Result<(), Failure> {
    check::sealed::check(world)?;
    if world.config.views {
        check::view::check(world)?;
        if world.config.authority {
            check::authority::check(world)?;
        }
        return check::account::check(world);
    }
    check::durability::check(world)?;
    check::delete::check(world)?;
    check::mergeable::check(world)?;
    check::mode::check(world)?;
    check::convergence::check(world)
}

fn violation(seed: u64, config: &SimConfig, world: Option<&mut World>, failure: Failure) -> Box<Violation> {
    let (step, at_ms) = world.as_ref().map_or((0, 0), |world| (world.counts.events, world.elapsed()));
    let trace = world.map(|world| std::mem::take(&mut world.trace)).unwrap_or_default();
    let run = config.run.map(|run| format!("BLAZEDB_SIM_RUN={run} ")).unwrap_or_default();
    let replay =
        format!("BLAZEDB_SIM_SEED={seed} {run}cargo test -p blazedb-sim --test seeds replay -- --nocapture");
    Box::new(Violation {
        seed,
        step,
        at_ms,
        property: failure.property,
        detail: failure.detail,
        replay,
        trace,
    })
}
