//! The in-process transport: two databases of one process, the same session code.

use std::sync::Arc;

use blazedb_core::Timestamp;
use blazedb_core::session::{Admission, Closed, Refusal};
use blazedb_core::view::View;
use blazedb_core::wire::{Direction, Hello};
use blazedb_transport::memory;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::database::Database;
use crate::driver::{Channel, ClientAsk, Role, SessionContext, run_session};
use crate::guard::Admitted;
use crate::turn::Turn;

/// Frames and bytes that may wait in the channel.
const FRAMES: usize = 64;
const BYTES: u32 = 4 << 20;

pub(crate) fn spawn(client: Database, server: Database, direction: Direction) -> JoinHandle<Closed> {
    let (left, right) = memory::pair(FRAMES, BYTES);
    let serve = serve(server, right);
    let connect =
        run(client, "in-process", Role::Client(ClientAsk { direction, ..ClientAsk::default() }), left);
    tokio::spawn(async move { tokio::join!(connect, serve).0 })
}

/// The serving side of a session: grants what is asked for.
async fn serve(server: Database, end: memory::MemoryEnd) -> Closed {
    let database = server.clone();
    let admit = move |hello: Hello| {
        let database = database.clone();
        let decide = async move { admit_all(&database, &hello, true).map(Admitted::from) };
        Box::pin(decide) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    run(server, "in-process server", Role::Server { admit: Box::new(admit), guard: None }, end).await
}

/// A channel to a database of this process, which serves it until the channel closes.
pub(crate) fn serve_inside(server: &Database) -> Channel {
    let (left, right) = memory::pair(FRAMES, BYTES);
    tokio::spawn(serve(server.clone(), right));
    left.into()
}

async fn run(database: Database, link: &str, role: Role, end: memory::MemoryEnd) -> Closed {
    let (_keep, stop) = watch::channel(false);
    let context = SessionContext {
        database,
        link: Arc::from(link),
        report: Arc::default(),
        stop,
        turn: Turn::default(),
    };
    run_session(context, role, end.into()).await
}

/// What a client asks to see, at this time.
fn shown(database: &Database, hello: &Hello) -> Result<View, String> {
    let now = Timestamp::from_millis(database.store().now_ms());
    hello.request.view(None, now).map_err(|error| format!("the filter asked for: {error}"))
}

/// Grants what is asked for.
pub(crate) fn admit_all(database: &Database, hello: &Hello, compression: bool) -> Result<Admission, Refusal> {
    let store = database.store();
    Ok(Admission {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty().map_err(|error| Refusal::failure(error.to_string()))?,
        direction: hello.direction,
        notice: String::new(),
        view: Arc::new(shown(database, hello).map_err(Refusal::access)?),
        decides: hello.authority || store.decides(),
        compression,
        now_ms: store.now_ms(),
    })
}

/// Links two databases of one process, without sockets or encryption, through the same session code.
///
/// Runs until one side's file closes or the returned task is aborted; answers why it ended.
#[must_use]
pub fn link_in_process(client: &Database, server: &Database, direction: Direction) -> JoinHandle<Closed> {
    spawn(client.clone(), server.clone(), direction)
}
