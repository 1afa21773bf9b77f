//! Strangers and broken peers at a hub's door: each is turned away with a reason in the log, and everybody else is served.
//!
//! `BLAZEDB_HALF_OPEN=10000` opens that many handshakes that go nowhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use blazedb_core::ReplicaId;
use blazedb_core::limits::MAX_HELLO_BYTES;
use blazedb_core::topology::Endpoint;
use blazedb_core::view::ViewRequest;
use blazedb_core::wire::{Direction, Hello, Message};
use blazedb_transport::ws::{self, ConnectOptions};
use blazedb_transport::{Connection, Identity, KnownNodes, PinPolicy};
use common::trace::random;
use common::{Place, Running, device, hub};

/// A hub, and somebody who is served by it all the time.
struct World {
    dir: tempfile::TempDir,
    hub: Place,
    node: Running,
    address: String,
    guest: Place,
    _guest_node: Running,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hub, node, address) = hub(dir.path(), "bidirectional", &["bugs"]);
        let guest = device(dir.path(), "guest", &address, "bidirectional", &["bugs"]);
        let (guest_node, _) = guest.up();
        Self { dir, hub, node, address, guest, _guest_node: guest_node }
    }

    /// A change of each side reaches the other, and somebody new gets in.
    fn serves(&self) {
        let [there, here] = [&self.guest, &self.hub].map(|place| place.ok(&["insert", "bugs", "{}"]));
        let arrived = || {
            let has = |place: &Place, id: &str| place.run(&["get", "bugs", id]).code == 0;
            has(&self.hub, &there) && has(&self.guest, &here)
        };
        assert!(common::until(arrived), "{}", self.guest.ok(&["status"]));
        let fresh =
            device(self.dir.path(), &format!("fresh-{here}"), &self.address, "bidirectional", &["bugs"]);
        fresh.ok(&["sync", "--timeout", "60"]);
        assert_eq!(fresh.ok(&["export", "bugs"]), self.hub.ok(&["export", "bugs"]));
    }

    /// Waits until the hub's log has these words this often.
    fn logs(&self, words: &str, times: usize) {
        let told = || self.node.log().matches(words).count() >= times;
        let tail =
            || self.node.log().lines().rev().take(20).map(|line| format!("{line}\n")).collect::<String>();
        assert!(common::until(told), "{words:?} is not {times} times in the log; its end:\n{}", tail());
    }

    fn stream(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// A connection up to the WebSocket.
    fn upgraded(&self) -> TcpStream {
        let mut stream = self.stream();
        stream.write_all(UPGRADE).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        stream
    }

    /// A connection up to the keys.
    async fn connection(&self) -> Connection {
        let endpoint: Endpoint = format!("ws://{}", self.address).parse().unwrap();
        let pins = PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory()));
        let identity = Identity::generate().unwrap();
        ws::connect(&endpoint, "bugs", "bugs", &identity, &pins, &ConnectOptions::default()).await.unwrap()
    }
}

const UPGRADE: &[u8] =
    b"GET /sync/bugs?from=bugs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A binary WebSocket message of a client.
fn message(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[0x82, 0x80 | 126, length[0], length[1], 0, 0, 0, 0], content].concat()
}

/// Sends it, and reads until the hub hangs up.
fn say(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length).map(|_| random(&mut state) as u8).collect()
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        replica: ReplicaId::from_bytes([0x4d; 16]),
        head: 0,
        empty: true,
        direction: Direction { push: true, pull: true },
        compression: false,
        checkpoint: None,
        fence: 0,
        request: ViewRequest::default(),
        authority: false,
        token: None,
        now_ms: 0,
    };
    Message::Hello(hello).encode()
}

async fn send(connection: &mut Connection, content: &[u8]) {
    // The hub may have hung up already.
    let _ = connection.sender.send(&[content]).await;
    let _ = connection.sender.flush().await;
}

/// What the hub says before it hangs up.
async fn last_words(connection: &mut Connection) -> String {
    let mut words = String::new();
    while let Ok(Ok(Some(frame))) = tokio::time::timeout(common::PATIENCE, connection.receiver.recv()).await {
        if let Ok(Message::Close(code, reason)) = Message::decode(&frame) {
            words = format!("{code:?}: {reason}");
        }
    }
    words
}

#[test]
fn strangers_are_turned_away_with_a_reason() {
    let world = World::new();
    for seed in 0..20 {
        say(world.stream(), &noise(2_000, seed));
        say(world.upgraded(), &noise(2_000, seed));
        say(world.upgraded(), &message(&noise(66, seed)));
    }
    say(world.stream(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    world.logs("connection refused", 61);
    // A first message with a true key and another version.
    let base_point = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                      4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let mut first: Vec<u8> =
        (0..65).map(|at| u8::from_str_radix(&base_point[2 * at..2 * at + 2], 16).unwrap()).collect();
    first.push(9);
    let answer = say(world.upgraded(), &message(&first));
    assert!(String::from_utf8_lossy(&answer).contains("version 9"), "{answer:?}");
    world.logs("version 9", 1);
    // It is cut off in the middle of a message, and announces one that nobody may send.
    say(world.upgraded(), &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    drop(world.upgraded().write_all(&message(&first)[..30]));
    world.logs("connection refused", 64);
    world.serves();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_break_the_protocol_are_sent_away_with_a_reason() {
    let world = World::new();
    let mut refused = 0;
    // Behind the keys, ahead of a hello: garbage, another version of the protocol, a hello that is cut off, a later message.
    let mut other_version = hello();
    other_version[1] = 99;
    let cut = hello()[..20].to_vec();
    for (content, words) in [
        (noise(500, 1), "Protocol"),
        (Vec::new(), "Protocol"),
        (other_version, "version 99"),
        (cut, "Protocol"),
        (Message::Ack(1).encode(), "Protocol"),
    ] {
        let mut connection = world.connection().await;
        send(&mut connection, &content).await;
        let told = last_words(&mut connection).await;
        assert!(told.contains(words), "{words} is not in {told:?} after {content:?}");
        refused += 1;
    }
    // After it: garbage, a message of a server, a hello again.
    let later = [noise(500, 2), Message::Ack(7).encode(), hello(), vec![4, 1, 9, 9, 9, 0xff, 0xff]];
    for content in &later {
        let mut connection = world.connection().await;
        send(&mut connection, &hello()).await;
        send(&mut connection, content).await;
        let told = last_words(&mut connection).await;
        assert!(!told.is_empty(), "no reason after {content:?}");
        refused += 1;
    }
    world.logs("session refused", refused);
    // Longer than somebody may send who has not been let in.
    let mut connection = world.connection().await;
    send(&mut connection, &vec![1; MAX_HELLO_BYTES + 1]).await;
    last_words(&mut connection).await;
    world.logs("before it was admitted", 1);
    world.serves();
}

/// One WebSocket message of a client, unmasked as it came: what it is, its mask, its content.
fn next_message(from: &mut TcpStream) -> Option<(u8, [u8; 4], Vec<u8>)> {
    let (mut head, mut mask) = ([0; 2], [0; 4]);
    from.read_exact(&mut head).ok()?;
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            from.read_exact(&mut length).ok()?;
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    from.read_exact(&mut mask).ok()?;
    let mut content = vec![0; length];
    from.read_exact(&mut content).ok()?;
    Some((head[0], mask, content))
}

fn encoded(kind: u8, mask: [u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[kind, 0x80 | 126, length[0], length[1]], &mask[..], content].concat()
}

/// What happens to a message on its way.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Spoiled {
    Changed,
    Repeated,
    Cut,
    NeverEnds,
}

impl Spoiled {
    fn apply(self, (kind, mask, mut content): (u8, [u8; 4], Vec<u8>)) -> Vec<u8> {
        // What has nothing to spoil: a WebSocket's own frames.
        let Some(kept) = content.len().checked_sub(3).filter(|kept| *kept > 0) else {
            return encoded(kind, mask, &content);
        };
        match self {
            Self::Changed => content[0] ^= 1,
            Self::Repeated => return encoded(kind, mask, &content).repeat(2),
            Self::Cut => content.truncate(kept),
            Self::NeverEnds => {
                let mut bytes = encoded(kind, mask, &content);
                bytes.truncate(bytes.len() - 3);
                return bytes;
            }
        }
        encoded(kind, mask, &content)
    }
}

/// A relay that spoils what clients say once keys are agreed on.
fn spoiling_relay(target: &str, how: Spoiled) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = target.to_owned();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(&target).unwrap();
            let (mut down, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut down, &mut back);
                back.shutdown(std::net::Shutdown::Both)
            });
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                    request.push(byte[0]);
                }
                let _ = server.write_all(&request);
                for no in 0.. {
                    let Some(message) = next_message(&mut client) else { break };
                    // The first two are the handshake's.
                    let (kind, mask, content) = &message;
                    let bytes = if no < 2 { encoded(*kind, *mask, content) } else { how.apply(message) };
                    if server.write_all(&bytes).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn what_was_changed_repeated_or_cut_on_the_way_is_refused() {
    let world = World::new();
    for (no, how) in [Spoiled::Changed, Spoiled::Repeated, Spoiled::Cut].into_iter().enumerate() {
        let relay = spoiling_relay(&world.address, how);
        let device = device(world.dir.path(), &format!("{how:?}"), &relay, "bidirectional", &["bugs"]);
        device.ok(&["insert", "bugs", r#"{"by":"nobody"}"#]);
        device.fails(&["sync", "--timeout", "3", "-q"], 3);
        world.logs("does not open", no + 1);
    }
    assert!(!world.hub.ok(&["export", "bugs"]).contains("nobody"));
    // What is missing never comes: the hub waits no longer than it does for any hello.
    let relay = spoiling_relay(&world.address, Spoiled::NeverEnds);
    let waiting = device(world.dir.path(), "waiting", &relay, "bidirectional", &["bugs"]);
    let (_node, _) = waiting.up();
    world.logs("no hello", 1);
    world.serves();
}

#[test]
fn a_hub_with_another_key_than_the_pinned_one_is_refused() {
    let world = World::new();
    let other = Identity::generate().unwrap().fingerprint().to_string();
    let topology = format!(
        "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{}'\nremote_key = '{other}'\n",
        world.address
    );
    let pinned = Place::new(world.dir.path(), "pinned", &topology);
    pinned.ok(&["insert", "bugs", r#"{"secret":1}"#]);
    let (code, message) = pinned.fails(&["sync", "--timeout", "20", "-q"], 4);
    let identity = std::fs::read_to_string(world.hub.0.join("data/identity.key")).unwrap();
    let found = identity.lines().find_map(|line| line.strip_prefix("fingerprint ")).unwrap();
    assert!(code == "unauthenticated" && message.contains(&other) && message.contains(found), "{message}");
    world.logs("connection refused", 1);
    // One that was met before and has another key now.
    let met = device(world.dir.path(), "met", &world.address, "bidirectional", &["bugs"]);
    met.ok(&["sync", "--timeout", "60"]);
    let known = met.0.join("data/known_nodes");
    let lines = std::fs::read_to_string(&known).unwrap();
    assert!(lines.contains(found), "{lines}");
    std::fs::write(&known, lines.replace(found, &other)).unwrap();
    met.ok(&["insert", "bugs", r#"{"secret":2}"#]);
    let (code, message) = met.fails(&["sync", "--timeout", "20", "-q"], 4);
    assert!(code == "unauthenticated" && message.contains("blazedb trust"), "{message}");
    assert!(!world.hub.ok(&["export", "bugs"]).contains("secret"));
    world.serves();
}

#[test]
fn handshakes_that_go_nowhere_keep_nobody_out() {
    let many = common::asked_for("BLAZEDB_HALF_OPEN", 1_000);
    let world = World::new();
    let open: Vec<TcpStream> = (0..many)
        .map(|no| {
            let mut stream = TcpStream::connect(&world.address).unwrap();
            let opening = [&b""[..], &UPGRADE[..60], UPGRADE, b"\x16\x03\x01"][no % 4];
            stream.write_all(opening).unwrap();
            stream
        })
        .collect();
    world.serves();
    // Each is given up, and said so.
    world.logs("connection refused", many);
    drop(open);
    world.serves();
}
