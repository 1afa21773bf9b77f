//! Runs simulations from many seeds. `BLAZEDB_SIM_SEEDS=N` runs N of them (`BLAZEDB_SIM_FIRST` is the first),
//! `BLAZEDB_SIM_SEED=X` replays one and prints what happened.

use blazedb_sim::{SimConfig, simulate};

const SEEDS: u64 = 60;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_property_holds_for_many_seeds() {
    let first = variable("BLAZEDB_SIM_FIRST").unwrap_or(0);
    let count = variable("BLAZEDB_SIM_SEEDS").unwrap_or(SEEDS);
    let mut failures = Vec::new();
    let (mut transactions, mut reconciliations, mut crashes, mut lossy) = (0, 0, 0, 0);
    for seed in first..first + count {
        match simulate(seed, SimConfig::for_seed(seed)) {
            Ok(report) => {
                transactions += report.counts.transactions;
                reconciliations += report.counts.reconciliations;
                crashes += report.counts.crashes;
                lossy += report.counts.lossy_crashes;
            }
            Err(violation) => failures.push(format!("{violation}")),
        }
    }
    println!(
        "{count} seeds: {transactions} transactions, {reconciliations} reconciliations, {crashes} crashes, {lossy} lossy"
    );
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{}", failures.len(), failures.join("\n\n"));
    // A run that exercises nothing proves nothing.
    if count >= SEEDS {
        assert!(transactions > 0 && reconciliations > 0 && crashes > 0 && lossy > 0);
    }
}

#[test]
fn seeds_that_found_something_stay_quiet() {
    for seed in [84, 111, 242, 249, 482, 967, 1148, 1166, 1498, 5804] {
        if let Err(violation) = simulate(seed, SimConfig::for_seed(seed)) {
            panic!("{violation}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 7, 23] {
        let runs = [(); 2].map(|()| simulate(seed, SimConfig::for_seed(seed)).unwrap());
        assert_eq!(runs[0], runs[1]);
    }
    let other = simulate(2, SimConfig::for_seed(1)).unwrap();
    assert_ne!(other.fingerprint, simulate(1, SimConfig::for_seed(1)).unwrap().fingerprint);
}

#[test]
fn replay() {
    let Some(seed) = variable("BLAZEDB_SIM_SEED") else { return };
    let config = SimConfig { trace: true, ..SimConfig::for_seed(seed) };
    match simulate(seed, config) {
        Ok(report) => println!("{report:#?}"),
        Err(violation) => {
            violation.trace.iter().for_each(|line| println!("{line}"));
            panic!("{violation}");
        }
    }
}
