//! Hosts that are network namespaces on one bridge: partitions that heal, a nearest edge that is lost, and a mesh that finds
//! itself. Needs root and `ip`; without them it says so and tests nothing, except in CI, where they have to be there.

#[cfg(test)]
mod common;
#[cfg(test)]
mod fleet;

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Instant;

    use serde_json::json;

    use crate::fleet::{Node, SERVED, outcome, split, trace, until, until_equal};

    const PORT: u16 = 7401;
    static NETWORKS: AtomicU8 = AtomicU8::new(0);

    /// Namespaces on a bridge; gone with it.
    struct Network {
        name: String,
        net: u8,
        hosts: usize,
        lines: Vec<Child>,
    }

    fn ip(args: &str) -> bool {
        let output = Command::new("ip").args(args.split(' ')).output();
        output.is_ok_and(|output| {
            if !output.status.success() {
                eprintln!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            output.status.success()
        })
    }

    impl Network {
        /// As many hosts, or none if namespaces can't be had here.
        fn new(hosts: usize) -> Option<Self> {
            let net = NETWORKS.fetch_add(1, Ordering::Relaxed);
            let name = format!("blz{}-{net}", std::process::id());
            let network = Self { name, net, hosts, lines: Vec::new() };
            let made = network.make();
            if !made {
                let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
                assert!(!ci, "network namespaces can't be had: this test needs root and iproute2");
                eprintln!(
                    "network namespaces can't be had here (root and `ip` are needed): nothing is tested"
                );
            }
            made.then_some(network)
        }

        fn make(&self) -> bool {
            let switch = self.switch();
            let bridge = ip(&format!("netns add {switch}"))
                && ip(&format!("-n {switch} link add br0 type bridge"))
                && ip(&format!("-n {switch} link set br0 up"));
            bridge && (0..self.hosts).all(|at| self.make_host(at))
        }

        fn make_host(&self, at: usize) -> bool {
            let (host, switch, port) = (self.host(at), self.switch(), format!("p{at}"));
            let address = self.address(at);
            [
                format!("netns add {host}"),
                format!("-n {host} link set lo up"),
                format!("-n {switch} link add {port} type veth peer name eth0 netns {host}"),
                format!("-n {switch} link set {port} master br0 up"),
                format!("-n {host} addr add {address}/24 dev eth0"),
                format!("-n {host} link set eth0 up"),
            ]
            .iter()
            .all(|command| ip(command))
        }

        fn switch(&self) -> String {
            format!("{}-sw", self.name)
        }

        fn host(&self, at: usize) -> String {
            format!("{}-h{at}", self.name)
        }

        fn address(&self, at: usize) -> String {
            format!("10.77.{}.{}", self.net, at + 1)
        }

        fn url(&self, at: usize) -> String {
            format!("ws://{}:{PORT}", self.address(at))
        }

        /// Pulls the plug of a host, or puts it in again. Nobody is told.
        fn plug(&self, at: usize, state: &str) {
            assert!(ip(&format!("-n {} link set p{at} {state}", self.switch())));
        }

        /// Makes a host's line slow and lossy, from now on.
        fn degrade(&mut self, at: usize, delay_ms: u32, jitter_ms: u32, loss_percent: u32) {
            let switch = self.switch();
            let (near, far) = (format!("near{at}"), format!("far{at}"));
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/line.py");
            let mut line = Command::new("ip")
                .args(["netns", "exec", &switch, "python3", script, &near, &far])
                .args([delay_ms, jitter_ms, loss_percent].map(|number| number.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(line.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "ready\n", "python3 and /dev/net/tun are needed for slow lines");
            self.lines.push(line);
            for command in [
                format!("-n {switch} link add line{at} type bridge"),
                format!("-n {switch} link set p{at} master line{at}"),
                format!("-n {switch} link set {near} master line{at}"),
                format!("-n {switch} link set {far} master br0"),
                format!("-n {switch} link set line{at} up"),
                format!("-n {switch} link set {near} up"),
                format!("-n {switch} link set {far} up"),
            ] {
                assert!(ip(&command));
            }
        }

        fn nodes<const N: usize>(&self, dir: &Path, declare: impl Fn(usize) -> String) -> [Node; N] {
            std::array::from_fn(|at| {
                let mut node = Node::new(dir, &format!("n{at}"), PORT, "");
                node.host = Some((self.host(at), self.address(at)));
                node.declare(&format!("n{at}"), &declare(at));
                node.up();
                node
            })
        }
    }

    impl Drop for Network {
        fn drop(&mut self) {
            for line in &mut self.lines {
                drop(line.stdin.take());
                let _ = line.wait();
            }
            for at in 0..self.hosts {
                ip(&format!("netns del {}", self.host(at)));
            }
            ip(&format!("netns del {}", self.switch()));
        }
    }

    #[test]
    fn partitions_heal() {
        let Some(mut network) = Network::new(5) else { return };
        let dir = tempfile::tempdir().unwrap();
        // One is behind a line that takes its time and loses every twentieth packet.
        network.degrade(3, 40, 10, 5);
        let nodes: [Node; 5] = network.nodes(dir.path(), |at| match at {
            0 => SERVED.to_owned(),
            // Two of them have a direct link as well.
            1 => format!("pattern = 'hub-and-spoke'\nhub = '{}'\n{SERVED}", network.url(0)),
            2 => format!(
                "pattern = 'hub-and-spoke'\nhub = '{}'\n[[databases.bugs.links]]\npattern = 'mesh'\npeers = ['{}']\n",
                network.url(0),
                network.url(1)
            ),
            _ => format!("pattern = 'hub-and-spoke'\nhub = '{}'\n", network.url(0)),
        });
        let trace = trace(160);
        let parts = split(&trace, 4);
        nodes[1].replay(&parts[0]);
        nodes[1].place.ok(&["sync", "--timeout", "120"]);
        // The hub is cut off, then a device: both halves go on.
        network.plug(0, "down");
        let id = nodes[1].insert(&json!({ "hub": "cut off" }));
        until("the direct link goes on", || nodes[2].has(&id));
        nodes[2].replay(&parts[1]);
        network.plug(0, "up");
        network.plug(4, "down");
        nodes[3].replay(&parts[2]);
        nodes[4].replay(&parts[3]);
        network.plug(4, "up");
        nodes[1].place.ok(&["delete", "bugs", &id]);
        until_equal(&outcome(dir.path(), &trace), &nodes.iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_nearest_edge_is_taken_lost_and_found_again() {
        let Some(mut network) = Network::new(5) else { return };
        let dir = tempfile::tempdir().unwrap();
        // The order in the file says otherwise.
        let (far, near) = (1, 2);
        network.degrade(far, 30, 0, 0);
        let nodes: [Node; 5] = network.nodes(dir.path(), |at| match at {
            0 => SERVED.to_owned(),
            1 | 2 => format!("pattern = 'hierarchical'\nmaster = '{}'\n{SERVED}", network.url(0)),
            _ => format!(
                "pattern = 'hierarchical'\nmaster = '{}'\nedges = ['{}', '{}']\n",
                network.url(0),
                network.url(1),
                network.url(2)
            ),
        });
        let is_at = |node: &Node, at: usize| {
            let link = node.link();
            link["remote"] == network.url(at) && link["state"] == "idle"
        };
        let id = nodes[3].insert(&json!({ "from": 3 }));
        until("the nearest edge is taken", || is_at(&nodes[3], near) && nodes[4].has(&id));
        let latency_ms = |to: usize| {
            let link = nodes[3].link();
            let choice = link["choice"].as_array().unwrap();
            let there =
                choice.iter().find(|one| one["address"].as_str().unwrap().contains(&network.address(to)));
            there.unwrap()["latency_ms"].as_f64().unwrap_or_default()
        };
        until("both are measured", || latency_ms(near) > 0.0 && latency_ms(far) > 0.0);
        assert!(latency_ms(far) >= 60.0, "there and back: {} ms", latency_ms(far));
        // Its line is cut: nobody says goodbye.
        network.plug(near, "down");
        until("the other one is taken", || is_at(&nodes[3], far));
        let id = nodes[3].insert(&json!({ "edge": "cut off" }));
        until("changes take the other way", || nodes[0].has(&id) && nodes[4].has(&id));
        network.plug(near, "up");
        until("the nearest is taken again", || is_at(&nodes[3], near));
        until("it has caught up itself", || nodes[near].has(&id));
        // The master is cut off: the edge serves.
        network.plug(0, "down");
        until("both are at one edge", || is_at(&nodes[4], near));
        let id = nodes[3].insert(&json!({ "master": "cut off" }));
        until("devices reach each other by the edge", || nodes[4].has(&id));
        network.plug(0, "up");
        until("the master hears of it", || nodes[0].has(&id));
    }

    #[test]
    fn a_mesh_finds_itself_and_falls_back_to_local() {
        let Some(network) = Network::new(5) else { return };
        let dir = tempfile::tempdir().unwrap();
        let nodes: [Node; 5] =
            network.nodes(dir.path(), |_| format!("pattern = 'mesh'\ndiscover = true\n{SERVED}"));
        let begun = Instant::now();
        let works = |node: &Node| node.links().iter().filter(|link| link["state"] == "idle").count();
        until("everybody is linked to everybody", || nodes.iter().all(|node| works(node) == 4));
        eprintln!("a mesh of five found itself in {} ms", begun.elapsed().as_millis());
        let trace = trace(120);
        for (node, part) in nodes.iter().zip(split(&trace, 5)) {
            node.replay(&part);
        }
        until_equal(&outcome(dir.path(), &trace), &nodes.iter().collect::<Vec<_>>());

        network.plug(4, "down");
        let id = nodes[4].insert(&json!({ "alone": true }));
        let falls_back = |node: &Node| {
            let status: serde_json::Value =
                serde_json::from_str(&node.place.ok(&["status", "--json"])).unwrap();
            status["databases"][0]["fallen_back_to_local"] == true
        };
        // Nobody says goodbye: the lines are dead, and only silence says so.
        let cut = Instant::now();
        until("nobody is there any more", || works(&nodes[4]) == 0);
        until("the others have noticed", || nodes[..4].iter().all(|node| works(node) == 3));
        eprintln!("a host that was cut off was noticed after {} ms", cut.elapsed().as_millis());
        until("its status says so", || falls_back(&nodes[4]));
        assert!(!falls_back(&nodes[0]));
        assert!(nodes[4].place.ok(&["status"]).contains("(local: no peer)"));
        nodes[4].place.ok(&["sync", "--timeout", "60"]);
        let other = nodes[0].insert(&json!({ "without": 4 }));
        network.plug(4, "up");
        until("they find each other again", || nodes[0].has(&id) && nodes[4].has(&other));
        until("its status says so", || !falls_back(&nodes[4]));
        let expected = nodes[0].export();
        until_equal(&expected, &nodes.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_found_stranger_gets_nothing_and_gives_nothing() {
        let Some(network) = Network::new(3) else { return };
        let dir = tempfile::tempdir().unwrap();
        // Two of one team, whose tokens the first one issues, and one who lets everybody in.
        let auth = [
            "issuers = [{ name = 'self', key_file = 'data/issuer.pub' }]",
            "issuers = [{ name = 'self', key_file = '../n0/data/issuer.pub' }]",
            "anonymous = true\ninsecure = true",
        ];
        let mut nodes: [Node; 3] = std::array::from_fn(|at| {
            let mut node = Node::new(dir.path(), &format!("n{at}"), PORT, "");
            node.host = Some((network.host(at), network.address(at)));
            let text = format!(
                "[node]\nname = 'n{at}'\ndata = 'data'\nlisten = '0.0.0.0:{PORT}'\n[auth]\n{}\n\
                 [databases.bugs]\nplaintext = true\npattern = 'mesh'\ndiscover = true\n{SERVED}",
                auth[at]
            );
            std::fs::write(node.place.0.join("blazedb.toml"), text).unwrap();
            node
        });
        nodes[0].up();
        let token = nodes[0].place.ok(&["token", "issue", "--user", "team"]);
        for node in &nodes[..2] {
            std::fs::create_dir_all(node.place.0.join("data")).unwrap();
            std::fs::write(node.place.0.join("data/token.jwt"), &token).unwrap();
        }
        nodes[2].up();
        let theirs = nodes[2].insert(&json!({ "of": "a stranger" }));
        let ours = nodes[0].insert(&json!({ "of": "the team" }));
        let turned_away = |node: &Node| {
            let status: serde_json::Value =
                serde_json::from_str(&node.place.ok(&["status", "--json"])).unwrap();
            status["node"]["sessions"]["refused"].as_u64() > Some(0)
        };
        until("the stranger finds the team and is turned away", || turned_away(&nodes[0]));
        nodes[1].up();
        until("the team finds itself", || nodes[1].has(&ours));
        let reply = nodes[1].insert(&json!({ "of": "the team", "reply": true }));
        until("both ways", || nodes[0].has(&reply));
        for node in &nodes[..2] {
            node.place.ok(&["sync", "--timeout", "60"]);
            assert!(!node.has(&theirs));
        }
        assert!(!nodes[2].has(&ours) && !nodes[2].has(&reply));
    }
}
