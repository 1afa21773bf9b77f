//! Every limit of BlazeDB, with its unit. A limit that is not here does not exist.

/// Encoded size of one record's fields, in bytes. A larger write is refused where it is made.
pub const MAX_RECORD_BYTES: usize = 4 << 20;
/// Encoded size of what one transaction may change, in bytes: it travels and is applied as one piece.
pub const MAX_TRANSACTION_BYTES: usize = 8 << 20;
/// One wire message before encryption, in bytes: a transaction, its framing and some room.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A wire message of a peer that has not been admitted yet, in bytes.
pub const MAX_HELLO_BYTES: usize = 16 << 10;
/// What a peer may send before it is admitted, in bytes: the request, the handshake, its hello, and some room.
pub const UNADMITTED_BYTES: u64 = 4 * MAX_HELLO_BYTES as u64;
/// Longest WebSocket frame that is sent, in bytes. Longer ones are accepted: a proxy may join them.
pub const FRAGMENT_BYTES: usize = 8 << 10;
/// What one connection keeps for reading, and what it collects of small frames before it writes, in bytes each.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 10;
/// Text of a notice or of the reason for closing a session, in bytes of UTF-8.
pub const MAX_NOTICE_BYTES: usize = 1_024;
/// Text of a refused connection that is shown, in characters.
pub const MAX_REFUSAL_CHARACTERS: usize = 300;
/// A file that a node keeps beside its databases (identity, known nodes), in bytes.
pub const MAX_NODE_FILE_BYTES: u64 = 1 << 20;
/// Fields of one record.
pub const MAX_FIELDS: usize = 4_096;
/// Distinct field names of one database.
pub const MAX_FIELD_NAMES: usize = 65_536;
/// Length of a field name, in bytes of UTF-8.
pub const MAX_FIELD_NAME_BYTES: usize = 255;
/// Length of a database name, in bytes of UTF-8.
pub const MAX_DATABASE_NAME_BYTES: usize = 128;
/// A topology file, in bytes.
pub const MAX_TOPOLOGY_BYTES: usize = 4 << 20;
/// The path prefix of an address (a node behind a proxy), in bytes.
pub const MAX_PREFIX_BYTES: usize = 255;
/// Databases of one node.
pub const MAX_DATABASES: usize = 10_000;
/// Addresses and further links that one database of a topology file may name, each.
pub const MAX_LINKS: usize = 1_024;
/// How deep arrays and maps may nest.
pub const MAX_DEPTH: usize = 32;
/// Length of a filter's text, in bytes.
pub const MAX_FILTER_BYTES: usize = 64 << 10;
/// How deep a filter's expression may nest.
pub const MAX_FILTER_DEPTH: usize = 64;
/// Elements of a mergeable set.
pub const MAX_SET_ELEMENTS: usize = 65_536;
/// Writers a mergeable counter or set remembers.
pub const MAX_CELL_WRITERS: usize = 65_536;
/// Replaced stamps that a cell carries, newest kept: concurrency is exact for up to this many other writers.
pub const MAX_REPLACED: usize = 8;
/// Stamps that a deletion carries of what it saw, newest kept: as [`MAX_REPLACED`], for deletions.
pub const MAX_DELETION_SEEN: usize = 4;
/// How far a stamp may be ahead of the receiver's clock, in milliseconds (the default).
pub const DEFAULT_DRIFT_LIMIT_MS: u64 = 5 * 60 * 1_000;
/// Encoded changes per batch that a pusher aims at, in bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// Changes sent and not yet acknowledged as durable, in bytes, per session and direction.
pub const SEND_WINDOW_BYTES: usize = 2 << 20;
/// What a message of changes counts for in that window beside its changes, in bytes: so even empty ones are bounded.
pub const MESSAGE_COST_BYTES: usize = 64;
/// Ids asked for in one message after a reconciliation.
pub const MAX_WANTED: usize = 16_384;
/// Records asked of the store at once when the outcome of a reconciliation is sent.
pub const WANTED_CHUNK: usize = 512;
/// Hashes in a sketch: the lowest ones of a set.
pub const SKETCH_LEN: usize = 128;
/// One reconciliation message, in bytes.
pub const RECONCILE_FRAME_BYTES: u64 = 1 << 20;
/// A session without a message for this long sends a ping, in milliseconds.
pub const PING_AFTER_MS: u64 = 20_000;
/// A session whose peer has been silent for this long is closed, in milliseconds.
pub const PEER_SILENT_MS: u64 = 60_000;
/// How long a peer has for the handshake and its hello, in milliseconds.
pub const HANDSHAKE_MS: u64 = 10_000;
/// A pusher that skipped changes without sending any reports its checkpoint after this pause, in milliseconds.
pub const CHECKPOINT_PAUSE_MS: u64 = 250;
/// How long a tombstone is kept for replicas that have not acknowledged it, in milliseconds.
pub const TOMBSTONE_LEASE_MS: u64 = 90 * 24 * 3_600 * 1_000;
/// Read connections to one file that are kept for the next reader.
pub const READERS_KEPT: usize = 4;
/// Entries of a database's conflict log; the oldest go first.
pub const MAX_CONFLICTS: usize = 10_000;
/// A served database that nothing happened to for this long gives its caches back, in milliseconds.
pub const IDLE_DATABASE_MS: u64 = 4_000;
/// A session whose peer has not acknowledged everything sends what is new after this pause, in milliseconds.
pub const FEED_PACE_MS: u64 = 20;
/// A session with more than this under way doesn't wait for acknowledgements before it sends more, in bytes.
pub const PACED_BYTES: usize = 32 << 10;
/// A session that finds more to send when everything is acknowledged sends it this long after it last looked, in
/// milliseconds.
pub const FEED_BURST_MS: u64 = 2;
