//! The in-process transport: two databases of one process, the same session code.

use std::sync::Arc;

use blazedb_core::session::{Admission, Closed};
use blazedb_core::wire::{Direction, Hello};
use blazedb_transport::memory;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::database::Database;
use crate::driver::{Role, SessionContext, run_session};

/// Frames and bytes that may wait in the channel.
const FRAMES: usize = 64;
const BYTES: u32 = 4 << 20;

pub(crate) fn spawn(client: Database, server: Database, direction: Direction) -> JoinHandle<Closed> {
    let (left, right) = memory::pair(FRAMES, BYTES);
    let serve = async move {
        let database = server.clone();
        let admit = move |hello: Hello| {
            let database = database.clone();
            let decide = async move { admit_all(&database, &hello, true) };
            Box::pin(decide) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        };
        run(server, "in-process server", Role::Server { admit: Box::new(admit) }, right).await
    };
    let connect = run(client, "in-process", Role::Client { direction, compression: false }, left);
    tokio::spawn(async move { tokio::join!(connect, serve).0 })
}

async fn run(database: Database, link: &str, role: Role, end: memory::MemoryEnd) -> Closed {
    let (_keep, stop) = watch::channel(false);
    let context = SessionContext { database, link: Arc::from(link), report: Arc::default(), stop };
    run_session(context, role, end.into()).await
}

/// Grants what is asked for.
pub(crate) fn admit_all(database: &Database, hello: &Hello, compression: bool) -> Result<Admission, String> {
    let store = database.store();
    Ok(Admission {
        replica: store.replica(),
        head: store.head(),
        empty: store.is_empty().map_err(|error| error.to_string())?,
        direction: hello.direction,
        notice: String::new(),
        compression,
        now_ms: store.now_ms(),
    })
}
