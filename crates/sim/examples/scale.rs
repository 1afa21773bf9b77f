//! Counts what it takes to bring the edits of 1 % of the nodes to everybody who is to have them, for 100, 300 and
//! 1,000 nodes (or those given): `cargo run --release -p blazedb-sim --example scale`.

use blazedb_sim::simulate_hierarchy;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let sizes = if given.is_empty() { vec![100, 300, 1_000] } else { given };
    println!(
        "| nodes | edges | edits | deliveries | messages to open | messages | with changes | bytes | bytes per node |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for nodes in sizes {
        let scale = simulate_hierarchy(1, nodes)?;
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} |",
            scale.nodes,
            scale.edges,
            scale.edits,
            scale.deliveries,
            scale.opening_messages,
            scale.messages,
            scale.changes,
            scale.bytes,
            scale.bytes as f64 / scale.nodes as f64
        );
    }
    Ok(())
}
