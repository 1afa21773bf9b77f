//! What is sealed is nowhere at the hub: not in its file, its memory, its logs, its HTTP API or on the wire; and a hub
//! that offers keys of its own is named.
#![cfg(target_os = "linux")]

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Read as _, Seek as _, SeekFrom, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use serde_json::Value as Json;

    use crate::common::{Place, Running};

    fn hub(dir: &Path, name: &str) -> (Place, Running, String, String) {
        let topology = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n[auth]\nanonymous = true\n\
                        [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\n\
                        [databases.bugs.access]\npublic = true\n";
        let hub = Place::new(dir, name, topology);
        let (node, ready) = hub.up_logging();
        let of = |key: &str| ready.split(key).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let (listen, admin) = (of("listen="), of("admin="));
        (hub, node, listen, admin)
    }

    fn device(dir: &Path, name: &str, address: &str, encryption: &str) -> Place {
        let topology = format!(
            "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{address}'\n\
             [databases.bugs.policy]\n{encryption}\n"
        );
        Place::new(dir, name, &topology)
    }

    const E2E: &str = "encryption = 'e2e-only'\nrouting_fields = ['teamId']";

    /// Where a marker is found, with what follows it.
    fn found(place: &str, bytes: &[u8]) -> Vec<String> {
        let (mut rest, mut found) = (bytes, Vec::new());
        while rest.skip_until(b'M').unwrap() > 0 && !rest.is_empty() {
            if rest.starts_with(b"ARKER") {
                let text = String::from_utf8_lossy(&rest[..rest.len().min(20)]);
                found.push(format!("M{text:?} in {place}"));
            }
        }
        found
    }

    /// Hands bytes on in both directions and keeps them.
    fn tapped(to: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (to, tap) = (to.to_owned(), Arc::clone(&heard));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&to)) else { continue };
                for (mut from, mut into) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ] {
                    let tap = Arc::clone(&tap);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 << 10];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            tap.lock().unwrap().extend_from_slice(&buffer[..count]);
                            if into.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = into.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        (address, heard)
    }

    /// All that a process has in memory.
    fn memory(pid: u32) -> Vec<u8> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut all = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            let mut piece = vec![0; usize::try_from(to - from).unwrap()];
            if memory.seek(SeekFrom::Start(from)).is_ok() && memory.read_exact(&mut piece).is_ok() {
                all.extend_from_slice(&piece);
            }
        }
        all
    }

    fn get(address: &str, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn files(hub: &Place) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(hub.0.join("data")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                bytes.extend(std::fs::read(path).unwrap_or_default());
            }
        }
        bytes
    }

    fn field(place: &Place, id: &str, name: &str) -> Json {
        let record: Json = serde_json::from_str(&place.ok(&["get", "bugs", id])).unwrap();
        record[name].clone()
    }

    #[test]
    fn nothing_of_what_is_sealed_is_found_at_the_hub_or_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, mut node, listen, admin) = hub(dir.path(), "hub");
        let (tap, wire) = tapped(&listen);
        let [one, two] = ["one", "two"].map(|name| device(dir.path(), name, &tap, E2E));
        let id = one.ok(&[
            "insert",
            "bugs",
            r#"{"MARKERname":"MARKERtitle","note":"MARKERbody","tags":{"$set":["MARKERsecret"]},"teamId":"ios"}"#,
        ]);
        one.ok(&["key", "create", "bugs"]);
        one.ok(&["sync"]);
        let code = one.ok(&["key", "invite", "bugs"]);
        two.ok(&["key", "join", "bugs", &code]);
        two.ok(&["sync"]);
        // Two members edit different fields at the same time.
        one.ok(&["update", "bugs", &id, r#"{"MARKERname":"MARKERedit one"}"#]);
        two.ok(&["update", "bugs", &id, r#"{"note":"MARKERedit two"}"#]);
        for place in [&one, &two, &one] {
            place.ok(&["sync"]);
        }
        for place in [&one, &two] {
            assert_eq!(field(place, &id, "MARKERname"), "MARKERedit one");
            assert_eq!(field(place, &id, "note"), "MARKERedit two");
        }
        // One that is deleted.
        let gone = one.ok(&["insert", "bugs", r#"{"note":"MARKERbody"}"#]);
        one.ok(&["sync"]);
        one.ok(&["delete", "bugs", &gone]);
        one.ok(&["sync"]);

        assert_eq!(hub.ok(&["get", "bugs", &id]), format!(r#"{{"id":"{id}","teamId":"ios"}}"#));
        let mut left = found("memory", &memory(node.pid()));
        for path in [
            "/v1/status",
            "/v1/topology",
            "/metrics",
            "/v1/databases",
            "/v1/databases/bugs",
            "/v1/databases/bugs/records",
            "/v1/databases/bugs/export",
            "/v1/databases/bugs/conflicts",
            "/v1/databases/bugs/keys",
            "/v1/refusals",
            &format!("/v1/databases/bugs/records/{id}/explain"),
        ] {
            let answer = get(&admin, path);
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
            left.extend(found(path, &answer));
        }
        left.extend(found("the files of the running hub", &files(&hub)));
        node.interrupt();
        let log = std::fs::read_to_string(hub.0.join("log")).unwrap();
        assert!(log.contains("session"), "the log says what happens: {log}");
        left.extend(found("the log", log.as_bytes()));
        left.extend(found("the files of the stopped hub", &files(&hub)));
        let wire = wire.lock().unwrap();
        assert!(wire.len() > 10_000);
        left.extend(found("the wire", &wire));
        assert!(left.is_empty(), "{left:#?}");
        // The search finds what is there.
        assert!(files(&hub).windows(3).any(|window| window == b"ios"));
        assert!(!found("a device's files", &files(&one)).is_empty());
    }

    #[test]
    fn a_hub_that_offers_its_own_keys_to_who_joins_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (_honest, _node, address, _) = hub(dir.path(), "honest");
        let (_evil, _other, elsewhere, _) = hub(dir.path(), "evil");
        let one = device(dir.path(), "one", &address, E2E);
        one.ok(&["key", "create", "bugs"]);
        one.ok(&["sync"]);
        let code = one.ok(&["key", "invite", "bugs"]);
        // Whoever runs the other hub has made a keyring there, and invited somebody: the chain looks the same.
        let accomplice = device(dir.path(), "accomplice", &elsewhere, E2E);
        accomplice.ok(&["key", "create", "bugs"]);
        accomplice.ok(&["sync"]);
        accomplice.ok(&["key", "invite", "bugs"]);
        let two = device(dir.path(), "two", &elsewhere, E2E);
        let answer = two.run(&["key", "join", "bugs", &code]);
        assert_ne!(answer.code, 0);
        let shown = two.run(&["key", "show", "bugs"]);
        let told = format!("{}{}{}", answer.err, shown.out, shown.err);
        assert!(told.contains("keyring"), "{told}");
        two.ok(&["insert", "bugs", r#"{"note":"MARKERsecret"}"#]);
        let synced = two.run(&["sync", "--timeout", "5"]);
        assert_ne!(synced.code, 0, "nothing is sealed with those keys: {}", synced.out);
        assert_eq!(accomplice.ok(&["query", "bugs", "--count"]), "0");
    }

    #[test]
    fn a_running_node_is_sealed_in_place_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (hub, _node, address, _) = hub(dir.path(), "hub");
        let one = device(dir.path(), "one", &address, "");
        let (_running, _) = one.up();
        let id = one.ok(&["insert", "bugs", r#"{"MARKERname":"MARKERtitle","teamId":"ios"}"#]);
        one.ok(&["update", "bugs", &id, r#"{"MARKERname":"MARKERbody"}"#]);
        one.ok(&["sync"]);
        assert!(!found("the hub", &files(&hub)).is_empty());
        let switch = |encryption: &str| {
            device(dir.path(), "one", &address, encryption);
            one.ok(&["apply"]);
            one.ok(&["key", "rule", "bugs"]);
        };
        one.ok(&["key", "create", "bugs"]);
        switch(E2E);
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let left = found("the hub", &files(&hub));
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{left:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        let new = one.ok(&["insert", "bugs", r#"{"MARKERname":"MARKERsecret","teamId":"ios"}"#]);
        one.ok(&["sync"]);
        assert_eq!(hub.ok(&["get", "bugs", &new]), format!(r#"{{"id":"{new}","teamId":"ios"}}"#));
        assert!(found("the hub", &files(&hub)).is_empty());
        switch("");
        one.ok(&["sync"]);
        assert_eq!(field(&hub, &new, "MARKERname"), "MARKERsecret");
        assert_eq!(hub.ok(&["export", "bugs"]), one.ok(&["export", "bugs"]));
    }
}
