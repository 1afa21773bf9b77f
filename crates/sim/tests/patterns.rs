//! Patterns that are switched under write load with faults, and many nodes. `BLAZEDB_SIM_SEED=X` runs the pairs with
//! another seed, `BLAZEDB_SIM_PAIR=FROM,TO` one of them alone, by number.

use blazedb_sim::{Configuration, Counts, simulate_hierarchy, switch_patterns};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_configuration_is_switched_to_every_other_without_losing_doubling_or_leaking_a_write() {
    let first = variable("BLAZEDB_SIM_SEED").unwrap_or(0);
    let only: Option<Vec<usize>> = std::env::var("BLAZEDB_SIM_PAIR")
        .ok()
        .map(|pair| pair.split(',').map(|number| number.parse().unwrap()).collect());
    let (mut failures, mut counts, mut pairs) = (Vec::new(), Counts::default(), 0);
    for (a, from) in Configuration::ALL.into_iter().enumerate() {
        for (b, to) in Configuration::ALL.into_iter().enumerate().filter(|(b, _)| *b != a) {
            if only.as_ref().is_some_and(|only| *only != [a, b]) {
                continue;
            }
            pairs += 1;
            match switch_patterns(first + (a * Configuration::ALL.len() + b) as u64, from, to) {
                Ok(report) => counts.add(&report.counts),
                Err(violation) => {
                    violation.trace.iter().for_each(|line| println!("{line}"));
                    let (from, to, detail) = (from.name(), to.name(), &violation.detail);
                    let property = violation.property;
                    failures.push(format!("{a},{b}: from {from} to {to}: {property}: {detail}"));
                }
            }
        }
    }
    println!("{pairs} pairs: {counts:?}");
    assert!(failures.is_empty(), "{} of {pairs} pairs failed\n{}", failures.len(), failures.join("\n\n"));
    assert!(only.is_some() || (counts.switches > 0 && counts.crashes > 0 && counts.transactions > 1_000));
}

#[test]
fn what_it_takes_to_bring_the_edits_of_one_in_a_hundred_to_their_readers_grows_with_the_nodes() {
    let [small, large] = [100, 200].map(|nodes| simulate_hierarchy(1, nodes).unwrap());
    assert_eq!((small.edits, large.edits), (1, 2));
    assert!(small.deliveries > 30 && large.deliveries > 60, "{small:?} {large:?}");
    for (a, b) in [(small.messages, large.messages), (small.bytes, large.bytes)] {
        let ratio = b as f64 / a as f64;
        assert!(
            (1.5..2.5).contains(&ratio),
            "twice the nodes take {ratio} times as much: {small:?} {large:?}"
        );
    }
}
