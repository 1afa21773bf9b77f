//! Every pattern with five nodes or more, as processes: a trace split among them, nodes that go away and come back, and the
//! same records everywhere in the end, as far as the modes say so.

#[cfg(test)]
mod common;
#[cfg(test)]
mod fleet;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value as Json, json};

    use crate::fleet::{Node, SERVED, free_port, outcome, split, trace, until, until_equal};

    /// Edits of the trace that are replayed.
    const EDITS: usize = 240;

    fn fleet<const N: usize>(dir: &Path, declare: impl Fn(usize, &[String]) -> String) -> [Node; N] {
        let ports: [u16; N] = std::array::from_fn(|_| free_port());
        let urls: Vec<String> = ports.iter().map(|port| format!("ws://127.0.0.1:{port}")).collect();
        std::array::from_fn(|at| {
            let mut node = Node::new(dir, &format!("n{at}"), ports[at], &declare(at, &urls));
            node.up();
            node
        })
    }

    /// Has the writers make their parts of the trace, one after the other; while the first of them does, the first of those
    /// that go away is away, and so on. Answers what is to be everywhere.
    fn storm(dir: &Path, nodes: &mut [Node], writers: &[usize], away: &[usize]) -> String {
        let trace = trace(EDITS);
        for (turn, (writer, part)) in writers.iter().zip(split(&trace, writers.len())).enumerate() {
            let gone = away.get(turn);
            match gone {
                Some(gone) if turn % 2 == 0 => nodes[*gone].crash(),
                Some(gone) => nodes[*gone].stop(),
                None => {}
            }
            nodes[*writer].replay(&part);
            gone.into_iter().for_each(|gone| nodes[*gone].up());
        }
        outcome(dir, &trace)
    }

    fn all<const N: usize>(nodes: &[Node; N]) -> Vec<&Node> {
        nodes.iter().collect()
    }

    #[test]
    fn hub_and_spoke() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => SERVED.to_owned(),
            _ => format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", urls[0]),
        });
        let expected = storm(dir.path(), &mut nodes, &[1, 2, 3, 4], &[2, 0, 3, 1]);
        until_equal(&expected, &all(&nodes));
    }

    #[test]
    fn star() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => format!("pattern = 'star'\nrole = 'parent'\n{SERVED}"),
            _ => format!("pattern = 'star'\nparent = '{}'\n", urls[0]),
        });
        // Who writes last decides what a star's record is; here each writer has synced before the next one writes.
        let trace = trace(EDITS / 2);
        for (at, part) in split(&trace, 4).iter().enumerate() {
            if at == 1 {
                nodes[3].crash();
            }
            nodes[at + 1].replay(part);
            nodes[at + 1].place.ok(&["sync", "--timeout", "60"]);
            if at == 1 {
                nodes[3].up();
            }
        }
        let expected = nodes[0].export();
        assert!(expected.lines().count() > 10);
        until_equal(&expected, &all(&nodes));
    }

    #[test]
    fn chain() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => SERVED.to_owned(),
            _ => format!("pattern = 'chain'\nupstream = '{}'\n{SERVED}", urls[at - 1]),
        });
        let expected = storm(dir.path(), &mut nodes, &[0, 1, 2, 3, 4], &[1, 3, 2, 4]);
        until_equal(&expected, &all(&nodes));
        // From one end to the other, and back: none of them is linked to the other.
        for (from, to) in [(0, 4), (4, 0)] {
            let id = nodes[from].insert(&json!({ "from": from }));
            until("a change goes along the whole chain", || nodes[to].has(&id));
        }
    }

    #[test]
    fn mesh() {
        let dir = tempfile::tempdir().unwrap();
        // A ring: each is linked to the next.
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| {
            format!("pattern = 'mesh'\npeers = ['{}']\n{SERVED}", urls[(at + 1) % 5])
        });
        let expected = storm(dir.path(), &mut nodes, &[0, 1, 2, 3, 4], &[0, 2, 4, 1, 3]);
        until_equal(&expected, &all(&nodes));
        // What is left of the ring is connected, and a node without any peer is no error.
        nodes[0].crash();
        let id = nodes[1].insert(&json!({ "from": 1 }));
        until("a change goes over several hops", || nodes[4].has(&id));
        for node in &nodes[1..] {
            node.place.ok(&["sync", "--timeout", "60"]);
        }
        nodes[0].up();
        until("who comes back catches up", || nodes[0].has(&id));
    }

    #[test]
    fn two_that_connect_to_each_other_use_one_link() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 2] =
            fleet(dir.path(), |at, urls| format!("pattern = 'mesh'\npeers = ['{}']\n{SERVED}", urls[1 - at]));
        let rests = |node: &Node| {
            node.link()["notice"].as_str().is_some_and(|notice| notice.contains("its link does"))
        };
        until("one of them rests", || nodes.iter().filter(|node| rests(node)).count() == 1);
        let resting = nodes.iter().position(rests).unwrap();
        for at in 0..2 {
            let id = nodes[at].insert(&json!({ "from": at }));
            nodes[at].place.ok(&["sync", "--timeout", "60"]);
            assert!(nodes[1 - at].has(&id));
        }
        assert_eq!(nodes[resting].link()["state"], "idle");
        // The link that rests is needed as soon as the other one is taken away.
        nodes[1 - resting].declare(&format!("n{}", 1 - resting), &format!("pattern = 'mesh'\n{SERVED}"));
        nodes[1 - resting].apply(&[]);
        until("it works again", || !rests(&nodes[resting]));
        let id = nodes[resting].insert(&json!({ "alone": true }));
        nodes[resting].place.ok(&["sync", "--timeout", "60"]);
        assert!(nodes[1 - resting].has(&id));
        nodes[resting].stop();
    }

    #[test]
    fn hierarchical() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => SERVED.to_owned(),
            1 | 2 => format!("pattern = 'hierarchical'\nmaster = '{}'\n{SERVED}", urls[0]),
            _ => format!(
                "pattern = 'hierarchical'\nmaster = '{}'\nedges = ['{}', '{}']\n",
                urls[0], urls[1], urls[2]
            ),
        });
        let trace = trace(EDITS / 2);
        for (at, part) in split(&trace, 2).iter().enumerate() {
            nodes[at + 3].replay(part);
            nodes[at + 3].place.ok(&["sync", "--timeout", "60"]);
        }
        // Each device has its own part, so nodes that hold the same hold both.
        until("all hold the same", || {
            let devices = nodes[3].export();
            nodes.iter().all(|node| node.export() == devices)
        });

        // The edges serve while the master is away.
        nodes[0].crash();
        let id = nodes[3].insert(&json!({ "master": "away" }));
        until("devices of one edge reach each other", || nodes[4].has(&id));
        nodes[0].up();

        // The edge goes: the next one does; it goes as well: the master does; and back.
        let remote = |node: &Node| node.link()["remote"].as_str().unwrap_or_default().to_owned();
        let is_idle = |node: &Node| node.link()["state"] == "idle";
        let first = remote(&nodes[3]);
        let at = nodes.iter().position(|node| node.url() == first).unwrap();
        assert!([1, 2].contains(&at), "{first} is an edge");
        let other = nodes[3 - at].url();
        nodes[at].crash();
        until("the next edge is taken", || remote(&nodes[3]) == other && is_idle(&nodes[3]));
        nodes[3 - at].crash();
        let master = nodes[0].url();
        until("the master is taken", || remote(&nodes[3]) == master && is_idle(&nodes[3]));
        let id = nodes[3].insert(&json!({ "edges": "away" }));
        until("it takes changes", || nodes[0].has(&id));
        nodes[at].up();
        until("an edge is taken again", || remote(&nodes[3]) == first && is_idle(&nodes[3]));
        nodes[3 - at].up();
        until("the master's changes come through the edge", || nodes[4].has(&id));
        let expected = nodes[0].export();
        until_equal(&expected, &all(&nodes));
    }

    #[test]
    fn broadcast() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => "serve = 'broadcast'\naccess = { public = true }\n".to_owned(),
            _ => format!("pattern = 'broadcast'\nsource = '{}'\n", urls[0]),
        });
        let expected = storm(dir.path(), &mut nodes, &[0, 0, 0], &[2, 4, 1]);
        until_equal(&expected, &all(&nodes));

        // A receiver's own end sends nothing, and can't be told to.
        let id = nodes[1].insert(&json!({ "mine": true }));
        nodes[1].place.ok(&["sync", "--timeout", "60"]);
        assert!(!nodes[0].has(&id) && nodes[1].link()["granted"]["push"] == false);
        nodes[1].declare(
            "n1",
            &format!("pattern = 'broadcast'\nsource = '{}'\nmode = 'bidirectional'\n", nodes[0].url()),
        );
        nodes[1].place.fails(&["apply"], 2);
        // The source's end takes nothing from one that tries.
        nodes[1].declare("n1", &format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", nodes[0].url()));
        nodes[1].apply(&[]);
        let (_, message) = nodes[1].place.fails(&["sync", "--timeout", "60"], 4);
        assert!(message.contains("broadcast"), "{message}");
        assert!(!nodes[0].has(&id));
        let news = nodes[0].insert(&json!({ "news": true }));
        until("it still receives", || nodes[1].has(&news));
    }

    #[test]
    fn aggregation() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => "serve = 'aggregate'\naccess = { public = true }\n".to_owned(),
            _ => format!("pattern = 'aggregation'\nsink = '{}'\n", urls[0]),
        });
        let expected = storm(dir.path(), &mut nodes, &[1, 2, 3, 4], &[3, 0, 4]);
        until_equal(&expected, &[&nodes[0]]);

        // A sender's own end takes nothing, and can't be told to.
        let id = nodes[0].insert(&json!({ "of the sink": true }));
        nodes[1].place.ok(&["sync", "--timeout", "60"]);
        assert!(!nodes[1].has(&id) && nodes[1].link()["granted"]["pull"] == false);
        nodes[1].declare(
            "n1",
            &format!("pattern = 'aggregation'\nsink = '{}'\nmode = 'read-only'\n", nodes[0].url()),
        );
        nodes[1].place.fails(&["apply"], 2);
        // The sink's end sends nothing to one that asks.
        nodes[1].declare("n1", &format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", nodes[0].url()));
        nodes[1].apply(&[]);
        until("it is told", || nodes[1].link()["notice"].as_str().is_some_and(|n| n.contains("aggregated")));
        let own = nodes[1].insert(&json!({ "own": true }));
        until("it still sends", || nodes[0].has(&own));
        assert!(!nodes[1].has(&id));
    }

    #[test]
    fn a_hub_and_a_direct_peer_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let direct = |urls: &[String]| {
            let link = format!("[[databases.bugs.links]]\npattern = 'mesh'\npeers = ['{}']\n", urls[1]);
            format!("pattern = 'hub-and-spoke'\nhub = '{}'\n{link}", urls[0])
        };
        let mut nodes: [Node; 5] = fleet(dir.path(), |at, urls| match at {
            0 => SERVED.to_owned(),
            1 => format!("pattern = 'hub-and-spoke'\nhub = '{}'\n{SERVED}", urls[0]),
            2 => direct(urls),
            _ => format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", urls[0]),
        });
        let expected = storm(dir.path(), &mut nodes, &[1, 2, 3, 4], &[2, 0, 1, 3]);
        until_equal(&expected, &all(&nodes));

        // Once, by whatever way is faster.
        let both_work = |node: &Node| node.links().iter().all(|link| link["state"] == "idle");
        until("both links work", || nodes[2].links().len() == 2 && both_work(&nodes[2]));
        let mut seen = nodes[2].place.start(&["watch", "bugs", "live == true"]);
        let told = |line: &str| -> Json { serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}")) };
        for number in 0..5 {
            let id = nodes[1].insert(&json!({ "live": true, "number": number }));
            let event = told(&seen.line());
            assert_eq!((&event["kind"], &event["record"]["id"]), (&json!("added"), &json!(id)));
            until("it comes by the other way as well", || nodes[0].has(&id));
        }

        // Without the hub the direct link does it, without the direct link the hub.
        nodes[0].crash();
        let id = nodes[1].insert(&json!({ "live": true, "hub": "away" }));
        assert_eq!(told(&seen.line())["record"]["id"], json!(id));
        nodes[0].up();
        nodes[2].declare("n2", &format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", nodes[0].url()));
        let closed = nodes[2].apply(&[]);
        assert_eq!((closed.len(), &closed[0]["action"]), (1, &json!("close-link")));
        until("the hub's link is back", || both_work(&nodes[2]));
        let id = nodes[1].insert(&json!({ "live": true, "peer": "away" }));
        assert_eq!(told(&seen.line())["record"]["id"], json!(id));
        drop(seen);
        let expected = nodes[0].export();
        until_equal(&expected, &all(&nodes));
    }
}
