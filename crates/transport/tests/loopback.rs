//! Two nodes over real sockets: what connects, what is refused, and what strangers get.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use blazedb_core::limits::{MAX_HELLO_BYTES, MAX_MESSAGE_BYTES};
use blazedb_transport::server::{AcceptError, AcceptOptions, Accepted, Reject, accept};
use blazedb_transport::tls::{TlsRoots, acceptor};
use blazedb_transport::ws::{ConnectError, ConnectOptions, Stage, connect};
use blazedb_transport::{Connection, Endpoint, Identity, KnownNodes, PinPolicy, ReceiveError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SOON: Duration = Duration::from_secs(5);

struct Hub {
    identity: Arc<Identity>,
    listener: TcpListener,
    options: AcceptOptions,
}

impl Hub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = Arc::new(Identity::generate().unwrap());
        Self { identity, listener, options: AcceptOptions { timeout: SOON, tls: None } }
    }

    fn endpoint(&self) -> Endpoint {
        let scheme = if self.options.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://localhost:{}", self.port()).parse().unwrap()
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Serves `bugs` and names with a space in them.
    async fn accept(&self) -> Result<Accepted, AcceptError> {
        let (stream, _) = self.listener.accept().await.unwrap();
        accept(stream, &self.identity, &self.options, |database| match database {
            "bugs" | "böse bugs" => Ok(()),
            "busy" => Err(Reject::unavailable("too many connections")),
            other => Err(Reject::not_served(other)),
        })
        .await
    }
}

fn anyone() -> PinPolicy {
    PinPolicy::FirstUse(Arc::new(KnownNodes::in_memory()))
}

fn options() -> ConnectOptions {
    ConnectOptions { timeout: SOON, roots: None }
}

async fn dial(hub: &Hub, database: &str, pins: &PinPolicy) -> Result<Connection, ConnectError> {
    let device = Identity::generate().unwrap();
    connect(&hub.endpoint(), "local", database, &device, pins, &options()).await
}

async fn connected() -> (Connection, Connection) {
    let hub = Hub::start().await;
    let pins = anyone();
    let (device, accepted) = tokio::join!(dial(&hub, "bugs", &pins), hub.accept());
    (device.unwrap(), accepted.unwrap().connection)
}

fn counting(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

async fn carries_everything(mut left: Connection, mut right: Connection) {
    right.receiver.admit();
    let lengths = [1, 100, 16_384, 65_519, 65_520, 1_000_000, 5_000_000];
    let sending = tokio::spawn(async move {
        for length in lengths {
            let body = counting(length);
            left.sender.send(&[b"head", &body]).await.unwrap();
        }
        left.sender.flush().await.unwrap();
        for length in lengths {
            assert_eq!(left.receiver.recv().await.unwrap().unwrap(), counting(length));
        }
        left
    });
    for length in lengths {
        let frame = right.receiver.recv().await.unwrap().unwrap();
        assert_eq!(frame.strip_prefix(b"head").unwrap(), counting(length));
        right.sender.send(&[&frame[4..]]).await.unwrap();
        right.sender.flush().await.unwrap();
    }
    let left = sending.await.unwrap();
    let (ours, theirs) = (left.counters.totals(), right.counters.totals());
    assert_eq!((ours.bytes_sent, ours.frames_sent), (theirs.bytes_received, theirs.frames_received));
    assert_eq!((ours.bytes_received, ours.frames_received), (theirs.bytes_sent, lengths.len() as u64));
    left.sender.close().await.unwrap();
    assert_eq!(right.receiver.recv().await.unwrap(), None);
}

#[tokio::test]
async fn frames_travel_both_ways_and_both_ends_know_each_other() {
    let hub = Hub::start().await;
    let device = Identity::generate().unwrap();
    let (endpoint, pins, options) =
        (hub.endpoint(), PinPolicy::Exactly(hub.identity.fingerprint()), options());
    let dialling = connect(&endpoint, "a/b?c", "böse bugs", &device, &pins, &options);
    let (left, accepted) = tokio::join!(dialling, hub.accept());
    let (left, accepted) = (left.unwrap(), accepted.unwrap());
    assert_eq!((accepted.database.as_str(), accepted.from.as_str()), ("böse bugs", "a/b?c"));
    assert_eq!(left.node_id(), hub.identity.node_id());
    assert_eq!(accepted.connection.fingerprint(), device.fingerprint());
    assert_eq!(left.handshake_hash, accepted.connection.handshake_hash);
    carries_everything(left, accepted.connection).await;
}

#[tokio::test]
async fn tls_with_a_certificate_of_ones_own() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut hub = Hub::start().await;
    hub.options.tls = Some(acceptor(vec![made.cert.der().clone()], key.into()).unwrap());
    let device = Identity::generate().unwrap();
    let trusting =
        ConnectOptions { timeout: SOON, roots: Some(TlsRoots::only([made.cert.der().clone()]).unwrap()) };
    let (endpoint, pins) = (hub.endpoint(), anyone());
    let dialling = connect(&endpoint, "bugs", "bugs", &device, &pins, &trusting);
    let (left, accepted) = tokio::join!(dialling, hub.accept());
    carries_everything(left.unwrap(), accepted.unwrap().connection).await;

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let doubting =
        ConnectOptions { timeout: SOON, roots: Some(TlsRoots::only([other.cert.der().clone()]).unwrap()) };
    let dialling = connect(&endpoint, "bugs", "bugs", &device, &pins, &doubting);
    let (left, accepted) = tokio::join!(dialling, hub.accept());
    assert!(matches!(left.unwrap_err(), ConnectError::Tls { .. }));
    assert!(matches!(accepted.unwrap_err(), AcceptError::Tls(_)));
}

#[tokio::test]
async fn a_key_that_is_not_the_pinned_one_is_refused_with_both_fingerprints() {
    let hub = Hub::start().await;
    let other = Identity::generate().unwrap().fingerprint();
    let nodes = Arc::new(KnownNodes::in_memory());
    nodes.check(&hub.endpoint(), other).unwrap();
    for pins in [PinPolicy::Exactly(other), PinPolicy::FirstUse(nodes)] {
        let (device, accepted) = tokio::join!(dial(&hub, "bugs", &pins), hub.accept());
        let error = device.unwrap_err();
        assert!(matches!(&error, ConnectError::KeyChanged { expected, found, .. }
            if *expected == other && *found == hub.identity.fingerprint()));
        let message = error.to_string();
        assert!(
            message.contains(&other.to_string()) && message.contains(&hub.identity.fingerprint().to_string())
        );
        assert!(accepted.is_err());
    }
}

#[tokio::test]
async fn the_first_contact_pins() {
    let hub = Hub::start().await;
    let dir = tempfile::tempdir().unwrap();
    let nodes = Arc::new(KnownNodes::open(&dir.path().join("known")).unwrap());
    let pins = PinPolicy::FirstUse(nodes.clone());
    for _ in 0..2 {
        let (device, accepted) = tokio::join!(dial(&hub, "bugs", &pins), hub.accept());
        device.unwrap();
        accepted.unwrap();
    }
    assert_eq!(nodes.get(&hub.endpoint()), Some(hub.identity.fingerprint()));
}

#[tokio::test]
async fn databases_that_are_not_served_are_named() {
    let hub = Hub::start().await;
    let pins = anyone();
    for (database, expected, words) in [("users", 404, "\"users\" is not served"), ("busy", 503, "too many")]
    {
        let (device, accepted) = tokio::join!(dial(&hub, database, &pins), hub.accept());
        match device.unwrap_err() {
            ConnectError::Refused { status, text, .. } => {
                assert_eq!(status, expected);
                assert!(text.contains(words), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(accepted.unwrap_err(), AcceptError::Rejected { status, .. } if status == expected));
    }
    assert!(matches!(dial(&hub, "", &pins).await.unwrap_err(), ConnectError::Name(_)));
}

/// As a hub does it: each caller in a task of its own.
#[tokio::test]
async fn both_sides_run_in_tasks() {
    let hub = Hub::start().await;
    let (endpoint, identity, options) = (hub.endpoint(), hub.identity.clone(), hub.options.clone());
    let serving = tokio::spawn(async move {
        let (stream, _) = hub.listener.accept().await.unwrap();
        let served = ["bugs".to_owned()];
        let route = |database: &str| {
            if served.iter().any(|name| name == database) {
                Ok(())
            } else {
                Err(Reject::not_served(database))
            }
        };
        accept(stream, &identity, &options, route).await.unwrap()
    });
    let dialling = tokio::spawn(async move {
        let device = Identity::generate().unwrap();
        connect(&endpoint, "bugs", "bugs", &device, &anyone(), &ConnectOptions::default()).await.unwrap()
    });
    let (accepted, device) = (serving.await.unwrap(), dialling.await.unwrap());
    carries_everything(device, accepted.connection).await;
}

#[tokio::test]
async fn nobody_there_and_no_such_host() {
    let hub = Hub::start().await;
    let endpoint = hub.endpoint();
    drop(hub.listener);
    let device = Identity::generate().unwrap();
    let refused = connect(&endpoint, "a", "b", &device, &anyone(), &options()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Unreachable { stage: Stage::Connecting, .. }), "{refused:?}");
    let nowhere: Endpoint = "ws://no-such-host.invalid".parse().unwrap();
    let unknown = connect(&nowhere, "a", "b", &device, &anyone(), &options()).await.unwrap_err();
    assert!(
        matches!(unknown, ConnectError::Unresolved { .. } | ConnectError::TimedOut { .. }),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn what_is_no_node_is_told_apart() {
    let answers: [&[u8]; 3] = [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\n\r\nhi", b""];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        let device = Identity::generate().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 2_000]).await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let (pins, options) = (anyone(), options());
        let (error, ()) = tokio::join!(connect(&endpoint, "a", "b", &device, &pins, &options), serving);
        let error = error.unwrap_err();
        assert!(
            matches!(error, ConnectError::NotWebSocket { .. } | ConnectError::Refused { status: 200, .. }),
            "{answer:?} gave {error:?}"
        );
    }
}

#[tokio::test]
async fn silence_ends_in_time_on_both_sides() {
    let brief = Duration::from_millis(150);
    let mut hub = Hub::start().await;
    hub.options.timeout = brief;
    for opening in [&b""[..], b"GET /sync/bugs?from=a HTTP/1.1\r\nHost: x\r\n", &upgrade("/sync/bugs?from=a")]
    {
        let mut stranger = TcpStream::connect(("127.0.0.1", hub.port())).await.unwrap();
        stranger.write_all(opening).await.unwrap();
        let begun = Instant::now();
        assert!(matches!(hub.accept().await.unwrap_err(), AcceptError::TimedOut { .. }));
        assert!(begun.elapsed() < brief * 10);
    }
    let device = Identity::generate().unwrap();
    let hurried = ConnectOptions { timeout: brief, roots: None };
    let error = connect(&hub.endpoint(), "a", "bugs", &device, &anyone(), &hurried).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { stage: Stage::Upgrade, .. }), "{error:?}");
}

fn upgrade(target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// What a stranger gets who sends `opening`, waits for the answer, and sends `more`.
async fn stranger(hub: &Hub, opening: &[u8], more: &[u8]) -> (AcceptError, Vec<u8>) {
    let talking = async {
        let mut stream = TcpStream::connect(("127.0.0.1", hub.port())).await.unwrap();
        let mut answer = vec![0; 4_096];
        // The hub may hang up at any point: what it says then is judged on its own side.
        let _ = stream.write_all(opening).await;
        if !more.is_empty() {
            let length = stream.read(&mut answer).await.unwrap_or(0);
            answer.truncate(length);
            let _ = stream.write_all(more).await;
        } else {
            answer.clear();
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let (accepted, answer) = tokio::join!(hub.accept(), talking);
    (accepted.unwrap_err(), answer)
}

#[tokio::test]
async fn garbage_ends_in_an_error() {
    let hub = Hub::start().await;
    let many_headers = [b"GET / HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(1_000)].concat();
    let long_header = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; 300_000]].concat();
    let junk_after = [upgrade("/sync/bugs?from=a"), vec![0x82; 50]].concat();
    let openings: [&[u8]; 7] = [
        b"",
        b"\x16\x03\x01\x02\x00",
        &[0xff; 5_000],
        b"POST / HTTP/1.1\r\n\r\n",
        &many_headers,
        &long_header,
        &junk_after,
    ];
    for opening in openings {
        let (error, _) = stranger(&hub, opening, b"").await;
        assert!(matches!(error, AcceptError::NotWebSocket(_) | AcceptError::Lost(_)), "{error:?}");
    }
    let after: [&[u8]; 5] = [
        &[0xff; 200],
        // An unmasked frame; a masked text; a masked frame that announces 2^63 bytes; 66 masked zero bytes.
        &[0x82, 0x01, 0x00],
        &[0x81, 0x81, 0, 0, 0, 0, b'x'],
        &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[vec![0x82, 0x80 | 66, 0, 0, 0, 0], vec![0; 66]].concat(),
    ];
    for more in after {
        let (error, answer) = stranger(&hub, &upgrade("/sync/bugs?from=a"), more).await;
        assert!(answer.starts_with(b"HTTP/1.1 101"));
        assert!(!matches!(error, AcceptError::TimedOut { .. } | AcceptError::Rejected { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_stranger_with_a_wrong_path_is_told() {
    let hub = Hub::start().await;
    for (target, status, words) in [
        ("/", "400", "/sync/"),
        ("/sync/bugs", "400", "from="),
        ("/sync/%ff?from=a", "400", "percent-encoded"),
        ("/sync/nothing?from=a", "404", "\"nothing\" is not served"),
    ] {
        let (error, answer) = stranger(&hub, &upgrade(target), b"").await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(words), "{answer}");
        assert!(matches!(error, AcceptError::Rejected { .. }));
    }
}

#[tokio::test]
async fn before_admission_only_a_hello_fits() {
    let (mut device, mut hub) = connected().await;
    device.sender.send(&[&counting(MAX_HELLO_BYTES)]).await.unwrap();
    device.sender.send(&[&counting(MAX_HELLO_BYTES + 1)]).await.unwrap();
    device.sender.flush().await.unwrap();
    assert_eq!(hub.receiver.recv().await.unwrap().unwrap(), counting(MAX_HELLO_BYTES));
    assert!(matches!(hub.receiver.recv().await.unwrap_err(), ReceiveError::NotAdmitted { .. }));

    let (mut device, mut hub) = connected().await;
    let sending = tokio::spawn(async move {
        let sent = device.sender.send(&[&counting(MAX_MESSAGE_BYTES)]).await;
        (sent, device)
    });
    // The frame is refused long before it is complete.
    assert!(matches!(hub.receiver.recv().await.unwrap_err(), ReceiveError::Lost(_)));
    assert!(hub.counters.totals().bytes_received == 0);
    drop(hub);
    assert!(sending.await.unwrap().0.is_err());
}

#[tokio::test]
async fn a_send_that_was_dropped_half_way_does_not_break_the_next() {
    let (mut device, mut hub) = connected().await;
    hub.receiver.admit();
    let long = counting(MAX_MESSAGE_BYTES);
    let dropped = tokio::time::timeout(Duration::from_millis(300), device.sender.send(&[&long])).await;
    assert!(dropped.is_err(), "16 MB fitted into the buffers of the system");
    let sending = tokio::spawn(async move {
        device.sender.send(&[b"next"]).await.unwrap();
        device.sender.flush().await.unwrap();
        device
    });
    assert!(hub.receiver.recv().await.unwrap().unwrap() == long);
    assert_eq!(hub.receiver.recv().await.unwrap().unwrap(), b"next");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_vanishes_is_lost_not_closed() {
    let (device, mut hub) = connected().await;
    drop(device);
    assert!(matches!(hub.receiver.recv().await, Err(ReceiveError::Lost(_))));
}

/// Relays bytes and flips one in what the device sends after `skip` bytes.
async fn flip(listener: TcpListener, hub: u16, skip: usize) {
    let (device, _) = listener.accept().await.unwrap();
    let upstream = TcpStream::connect(("127.0.0.1", hub)).await.unwrap();
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_hub, mut to_hub) = upstream.into_split();
    let back = tokio::spawn(async move { tokio::io::copy(&mut from_hub, &mut to_device).await });
    let (mut seen, mut buffer) = (0, vec![0; 4_096]);
    while let Ok(length @ 1..) = from_device.read(&mut buffer).await {
        if (seen..seen + length).contains(&skip) {
            buffer[skip - seen] ^= 1;
        }
        seen += length;
        if to_hub.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    drop(to_hub);
    back.abort();
}

#[tokio::test]
async fn a_byte_altered_on_the_way_ends_the_connection() {
    let hub = Hub::start().await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("ws://{}", relay.local_addr().unwrap()).parse().unwrap();
    // Past the upgrade (some 200 bytes) and the handshake (some 180): inside the long frame.
    tokio::spawn(flip(relay, hub.port(), 20_000));
    let device = Identity::generate().unwrap();
    let (pins, options) = (anyone(), options());
    let dialling = connect(&endpoint, "bugs", "bugs", &device, &pins, &options);
    let (left, accepted) = tokio::join!(dialling, hub.accept());
    let (mut left, mut right) = (left.unwrap(), accepted.unwrap().connection);
    right.receiver.admit();
    left.sender.send(&[b"fine"]).await.unwrap();
    left.sender.send(&[&counting(30_000)]).await.unwrap();
    left.sender.flush().await.unwrap();
    assert_eq!(right.receiver.recv().await.unwrap().unwrap(), b"fine");
    assert!(right.receiver.recv().await.is_err());
}

#[tokio::test]
async fn a_relay_that_changes_the_database_gets_no_channel() {
    let hub = Hub::start().await;
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("ws://{}", relay.local_addr().unwrap()).parse().unwrap();
    // "GET /sync/bugs?from=loca" + "l": the last letter of the local name is changed.
    tokio::spawn(flip(relay, hub.port(), "GET /sync/bugs?from=local".len() - 1));
    let device = Identity::generate().unwrap();
    let (pins, options) = (anyone(), options());
    let dialling = connect(&endpoint, "local", "bugs", &device, &pins, &options);
    let (left, accepted) = tokio::join!(dialling, hub.accept());
    assert!(matches!(left.unwrap_err(), ConnectError::Handshake { .. }));
    assert!(accepted.is_err());
}
