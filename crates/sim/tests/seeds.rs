//! Runs simulations from many seeds. `BLAZEDB_SIM_SEEDS=N` runs N of them (`BLAZEDB_SIM_FIRST` is the first),
//! `BLAZEDB_SIM_SEED=X` replays one and prints what happened.

use blazedb_sim::{Counts, SimConfig, simulate};

const SEEDS: u64 = 16;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_property_holds_for_many_seeds() {
    let counts = run(SimConfig::for_seed);
    // A run that exercises nothing proves nothing.
    if variable("BLAZEDB_SIM_SEEDS").is_none() {
        assert!(counts.transactions > 0 && counts.reconciliations > 0);
        assert!(counts.crashes > 0 && counts.lossy_crashes > 0);
    }
}

/// Runs a configuration for many seeds; what happened in all of them, and what was found.
fn run(config: impl Fn(u64) -> SimConfig) -> Counts {
    let first = variable("BLAZEDB_SIM_FIRST").unwrap_or(0);
    let count = variable("BLAZEDB_SIM_SEEDS").unwrap_or(SEEDS);
    let (mut failures, mut counts) = (Vec::new(), Counts::default());
    for seed in first..first + count {
        match simulate(seed, config(seed)) {
            Ok(report) => counts.add(&report.counts),
            Err(violation) => failures.push(violation.to_string()),
        }
    }
    println!("{count} seeds: {counts:?}");
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{}", failures.len(), failures.join("\n\n"));
    counts
}

#[test]
fn sessions_that_stop_in_the_middle_miss_nothing_for_many_seeds() {
    run(SimConfig::small_batches_for_seed);
}

#[test]
fn devices_with_policies_hold_what_they_are_shown_for_many_seeds() {
    run(SimConfig::views_for_seed);
}

#[test]
fn links_that_change_while_they_are_open_lose_and_leak_nothing_for_many_seeds() {
    assert!(run(SimConfig::switches_for_seed).switches > 0);
}

#[test]
fn access_rules_leak_and_lose_nothing_for_many_seeds() {
    let counts = run(SimConfig::rules_for_seed);
    assert!(counts.refusals > 0 && counts.grants > 0);
}

#[test]
fn what_a_parent_decides_is_what_all_show_and_no_loser_is_lost_for_many_seeds() {
    assert!(run(SimConfig::authority_for_seed).refusals > 0);
}

#[test]
fn what_is_sealed_stays_sealed_and_is_not_lost_for_many_seeds() {
    assert!(run(SimConfig::sealed_for_seed).grants > 0);
}

#[test]
fn what_was_deleted_stays_away_and_nothing_is_lost_though_tombstones_are_dropped_for_many_seeds() {
    assert!(run(SimConfig::leases_for_seed).dropped > 0);
}

#[test]
fn seeds_that_found_something_stay_quiet() {
    stay_quiet(SimConfig::for_seed, &[84, 111, 242, 249, 482, 967, 1148, 1166, 1498, 5804]);
}

#[test]
fn seeds_that_found_something_about_views_and_rights_stay_quiet() {
    stay_quiet(SimConfig::rules_for_seed, &[12, 57, 122, 187, 242, 291, 321, 380, 537, 657, 738, 954]);
    stay_quiet(SimConfig::views_for_seed, &[67, 278]);
    stay_quiet(SimConfig::switches_for_seed, &[323]);
    stay_quiet(SimConfig::leases_for_seed, &[107, 309]);
}

fn stay_quiet(config: impl Fn(u64) -> SimConfig, seeds: &[u64]) {
    for seed in seeds {
        let found = simulate(*seed, config(*seed)).err();
        assert!(found.is_none(), "{}", found.map(|violation| violation.to_string()).unwrap_or_default());
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
    let config = match std::env::var("BLAZEDB_SIM_RUN").as_deref() {
        Ok("batches") => SimConfig::small_batches_for_seed(seed),
        Ok("views") => SimConfig::views_for_seed(seed),
        Ok("switches") => SimConfig::switches_for_seed(seed),
        Ok("rules") => SimConfig::rules_for_seed(seed),
        Ok("authority") => SimConfig::authority_for_seed(seed),
        Ok("leases") => SimConfig::leases_for_seed(seed),
        Ok("sealed") => SimConfig::sealed_for_seed(seed),
        _ => SimConfig::for_seed(seed),
    };
    let config = SimConfig { trace: true, ..config };
    match simulate(seed, config) {
        Ok(report) => println!("{report:#?}"),
        Err(violation) => {
            violation.trace.iter().for_each(|line| println!("{line}"));
            panic!("{violation}");
        }
    }
}
