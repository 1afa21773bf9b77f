//! Every pattern is switched into every other by `apply` on running nodes, while applications write.
//!
//! `BLAZEDB_SWITCH_SEED=X` takes another walk through the patterns, `BLAZEDB_SWITCH_ALL=1` one along all pairs.

#[cfg(test)]
mod common;
#[cfg(test)]
mod fleet;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use serde_json::{Value as Json, json};

    use crate::common::Place;
    use crate::fleet::{Node, SERVED, free_port, until};

    /// Switches of a run without further words.
    const SWITCHES: usize = 36;
    const NODES: usize = 4;
    /// What all writers count with.
    const COUNTER: &str = "00000000-0000-4000-8000-00000000c0de";

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum Pattern {
        Hub,
        Mesh,
        Chain,
        Star,
        Hierarchical,
        Broadcast,
        Aggregation,
        Hybrid,
        LocalOnly,
    }

    impl Pattern {
        const ALL: [Self; 9] = [
            Self::Hub,
            Self::Mesh,
            Self::Chain,
            Self::Star,
            Self::Hierarchical,
            Self::Broadcast,
            Self::Aggregation,
            Self::Hybrid,
            Self::LocalOnly,
        ];

        /// What a node declares. Each listens, whatever it serves: that can't be changed while it runs.
        fn declared(self, at: usize, urls: &[String]) -> String {
            let hub = &urls[0];
            match (self, at) {
                (Self::LocalOnly, _) => "serve = 'none'\n".to_owned(),
                (Self::Mesh, _) => {
                    format!("pattern = 'mesh'\npeers = ['{}']\n{SERVED}", urls[(at + 1) % NODES])
                }
                (Self::Star, 0) => format!("pattern = 'star'\nrole = 'parent'\n{SERVED}"),
                (Self::Broadcast, 0) => "serve = 'broadcast'\naccess = { public = true }\n".to_owned(),
                (Self::Aggregation, 0) => "serve = 'aggregate'\naccess = { public = true }\n".to_owned(),
                (_, 0) => SERVED.to_owned(),
                (Self::Hub, _) => format!("pattern = 'hub-and-spoke'\nhub = '{hub}'\n{SERVED}"),
                (Self::Chain, _) => format!("pattern = 'chain'\nupstream = '{}'\n{SERVED}", urls[at - 1]),
                (Self::Star, _) => format!("pattern = 'star'\nparent = '{hub}'\nserve = 'none'\n"),
                (Self::Hierarchical, 1) => format!("pattern = 'hierarchical'\nmaster = '{hub}'\n{SERVED}"),
                (Self::Hierarchical, _) => {
                    format!(
                        "pattern = 'hierarchical'\nmaster = '{hub}'\nedges = ['{}']\nserve = 'none'\n",
                        urls[1]
                    )
                }
                (Self::Broadcast, _) => format!("pattern = 'broadcast'\nsource = '{hub}'\nserve = 'none'\n"),
                (Self::Aggregation, _) => {
                    format!("pattern = 'aggregation'\nsink = '{hub}'\nserve = 'none'\n")
                }
                (Self::Hybrid, 3) => format!(
                    "pattern = 'hub-and-spoke'\nhub = '{hub}'\n{SERVED}\
                     [[databases.bugs.links]]\npattern = 'mesh'\npeers = ['{}']\n",
                    urls[2]
                ),
                (Self::Hybrid, _) => format!("pattern = 'hub-and-spoke'\nhub = '{hub}'\n{SERVED}"),
            }
        }

        /// From where to where a change goes that shows that the pattern works.
        const fn way(self) -> Option<(usize, usize)> {
            match self {
                Self::LocalOnly => None,
                Self::Broadcast => Some((0, 3)),
                Self::Aggregation => Some((3, 0)),
                Self::Chain | Self::Hierarchical => Some((3, 0)),
                Self::Hub | Self::Mesh | Self::Star | Self::Hybrid => Some((1, 3)),
            }
        }
    }

    struct Dice(u64);

    impl Dice {
        fn next(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    /// A walk over as many different pairs, or over all.
    fn walk(dice: &mut Dice, pairs: usize) -> Vec<Pattern> {
        let mut left: BTreeSet<(Pattern, Pattern)> = Pattern::ALL
            .into_iter()
            .flat_map(|from| Pattern::ALL.into_iter().map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect();
        let mut walk = vec![Pattern::Hub];
        while left.len() > 72 - pairs {
            let here = walk[walk.len() - 1];
            let next: Vec<Pattern> =
                left.iter().filter(|(from, _)| *from == here).map(|(_, to)| *to).collect();
            // Where all ways are taken, another one is begun.
            let all: Vec<Pattern> = Pattern::ALL.into_iter().filter(|to| *to != here).collect();
            let choice = if next.is_empty() { &all } else { &next };
            let to = choice[dice.next(choice.len())];
            left.remove(&(here, to));
            walk.push(to);
        }
        walk
    }

    #[test]
    fn a_walk_takes_every_pair() {
        let mut dice = Dice(3);
        let all: Vec<Pattern> = walk(&mut dice, 72);
        let pairs: BTreeSet<_> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
        assert_eq!(pairs.len(), 72);
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(walk(&mut dice, SWITCHES).len(), SWITCHES + 1);
    }

    /// What was written, and how often was counted.
    #[derive(Default)]
    struct Ledger {
        written: Mutex<BTreeSet<String>>,
        counted: AtomicU64,
        over: AtomicBool,
    }

    impl Ledger {
        /// Writes on one node until it is over.
        fn write_on(&self, place: &Place, at: usize) {
            let mut number = 0;
            while !self.over.load(Ordering::Relaxed) {
                let id = place.ok(&["insert", "bugs", &json!({ "by": at, "number": number }).to_string()]);
                assert!(self.written.lock().unwrap().insert(id));
                // It may not have come here yet.
                if place.run(&["update", "bugs", COUNTER, r#"{"count": {"$inc": 1}}"#]).code == 0 {
                    self.counted.fetch_add(1, Ordering::Relaxed);
                }
                number += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn count_of(node: &Node) -> u64 {
        let record: Json = serde_json::from_str(&node.place.ok(&["get", "bugs", COUNTER])).unwrap();
        record["count"]["$counter"].as_u64().unwrap()
    }

    fn switch(nodes: &[Node], urls: &[String], to: Pattern, dice: &mut Dice) {
        // In any order: for a while some nodes are of one pattern and some of the other.
        let first = dice.next(NODES);
        for at in (0..NODES).map(|step| (first + step) % NODES) {
            nodes[at].declare(&format!("n{at}"), &to.declared(at, urls));
            nodes[at].apply(&[]);
        }
        if let Some((from, reaches)) = to.way() {
            let id = nodes[from].insert(&json!({ "proves": format!("{to:?}") }));
            until(&format!("a change gets through in {to:?}"), || nodes[reaches].has(&id));
        }
    }

    #[test]
    fn patterns_switch_into_each_other_under_load_and_no_write_is_lost_or_doubled() {
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let mut dice = Dice(number("BLAZEDB_SWITCH_SEED").unwrap_or(11));
        let walk = walk(&mut dice, if number("BLAZEDB_SWITCH_ALL").is_some() { 72 } else { SWITCHES });
        let dir = tempfile::tempdir().unwrap();
        let ports: [u16; NODES] = std::array::from_fn(|_| free_port());
        let urls: Vec<String> = ports.iter().map(|port| format!("ws://127.0.0.1:{port}")).collect();
        let nodes: [Node; NODES] = std::array::from_fn(|at| {
            let mut node = Node::new(dir.path(), &format!("n{at}"), ports[at], &walk[0].declared(at, &urls));
            node.up();
            node
        });
        let counter = json!({ "id": COUNTER, "count": { "$counter": 0 } });
        nodes[0].insert(&counter);
        until("all have the counter", || nodes.iter().all(|node| node.has(COUNTER)));
        let (ledger, begun) = (Ledger::default(), Instant::now());
        std::thread::scope(|scope| {
            for at in [1, 2] {
                let (ledger, place) = (&ledger, &nodes[at].place);
                scope.spawn(move || ledger.write_on(place, at));
            }
            // Whatever fails, the writers stop.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for to in &walk[1..] {
                    switch(&nodes, &urls, *to, &mut dice);
                }
            }));
            ledger.over.store(true, Ordering::Relaxed);
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
        eprintln!("{} switches in {} s: {walk:?}", walk.len() - 1, begun.elapsed().as_secs());
        switch(&nodes, &urls, Pattern::Hub, &mut dice);
        let (written, counted) = (ledger.written.into_inner().unwrap(), ledger.counted.into_inner());
        assert!(written.len() >= walk.len() && counted > 0);
        until("all hold the same", || {
            let held = nodes[0].export();
            written.iter().all(|id| held.contains(id.as_str()))
                && nodes[1..].iter().all(|node| node.export() == held)
        });
        for node in &nodes {
            assert_eq!(count_of(node), counted, "each was counted once");
        }
        for id in &written {
            assert_eq!(nodes[3].export().matches(id.as_str()).count(), 1);
        }
        let rejected = nodes[0].place.ok(&["rejected", "bugs"]);
        assert_eq!(rejected, "", "nothing was refused");
    }
}
