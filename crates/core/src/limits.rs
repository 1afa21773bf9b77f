//! Every limit of BlazeDB, with its unit. A limit that is not here does not exist.

/// Encoded size of one record's fields, in bytes. A larger write is refused where it is made.
pub const MAX_RECORD_BYTES: usize = 4 << 20;
/// Encoded history of one record, in bytes: with sealed values, which stand in it and of which parts may be outdated.
pub const MAX_HISTORY_BYTES: usize = 12 << 20;
/// Encoded size of what one transaction may change, in bytes: it travels and is applied as one piece.
pub const MAX_TRANSACTION_BYTES: usize = 8 << 20;
/// One wire message before encryption, in bytes: a transaction, its framing and some room.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A wire message of a peer that has not been admitted yet, in bytes.
pub const MAX_HELLO_BYTES: usize = 48 << 10;
/// The filter of a policy, as a client hands it in with its hello, in bytes.
pub const MAX_REQUEST_FILTER_BYTES: usize = 16 << 10;
/// What a peer may send before it is admitted, in bytes: the request, the handshake, its hello, and some room.
pub const UNADMITTED_BYTES: u64 = 4 * MAX_HELLO_BYTES as u64;
/// How often a link that may choose measures its addresses, in milliseconds.
pub const PROBE_EVERY_MS: u64 = 3_000;
/// How long an address has to answer a measurement, in milliseconds.
pub const PROBE_TIMEOUT_MS: u64 = 2_000;
/// How long the first measurement waits for others once one has answered, in milliseconds.
pub const PROBE_GRACE_MS: u64 = 250;
/// Nodes of the local network that are remembered.
pub const MAX_FOUND_PEERS: usize = 1_024;
/// Addresses of one of them.
pub const MAX_PEER_ADDRESSES: usize = 8;
/// How long a found peer that refuses is left alone at first, in milliseconds, doubled every time, and at most.
pub const FOUND_AGAIN_FIRST_MS: u64 = 2_000;
/// See [`FOUND_AGAIN_FIRST_MS`].
pub const FOUND_AGAIN_MAX_MS: u64 = 300_000;
/// Longest WebSocket frame that is sent, in bytes. Longer ones are accepted: a proxy may join them.
pub const FRAGMENT_BYTES: usize = 1 << 10;
/// What one connection keeps for reading, and what it collects of small frames before it writes, in bytes each.
pub const SOCKET_BUFFER_BYTES: usize = 1 << 10;
/// What is read from a socket or written to it at once, in bytes, and kept no longer than that takes.
pub const SOCKET_PIECE_BYTES: usize = 64 << 10;
/// Text of a notice or of the reason for closing a session, in bytes of UTF-8.
pub const MAX_NOTICE_BYTES: usize = 1_024;
/// A token that says who a node's user is, in bytes. Fits a hello with room to spare.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// Keys in one key set of an issuer of tokens.
pub const MAX_ISSUER_KEYS: usize = 64;
/// Text of a refused connection that is shown, and of the reason that a resolver gives for refusing a write, in
/// characters.
pub const MAX_REFUSAL_CHARACTERS: usize = 300;
/// A file that a node keeps beside its databases (identity, known nodes), in bytes.
pub const MAX_NODE_FILE_BYTES: u64 = 1 << 20;
/// What a node calls itself when it connects, in bytes of UTF-8; a longer name is cut.
pub const MAX_NODE_NAME_BYTES: usize = 64;
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
/// One statement of a keyring, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 1 << 20;
/// Statements of one keyring.
pub const MAX_STATEMENTS: usize = 65_536;
/// The dictionary of an epoch, with which values are compressed before they are sealed, in bytes.
pub const MAX_DICTIONARY_BYTES: usize = 64 << 10;
/// How many times as long as what was sealed the values that come out of it may be.
pub const MAX_UNPACKED: usize = 64;
/// Members of one keyring, and epochs whose keys one of them is given at once.
pub const MAX_KEYRING_MEMBERS: usize = 4_096;
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
/// As long as so much waits to be sent to a client, in bytes, nothing more is taken from it: more than the window, and what
/// else is under way, comes to only if it reads nothing.
pub const OUTBOX_BYTES: usize = 2 * SEND_WINDOW_BYTES;
/// What lists for comparisons with clients may take of memory at one time, in bytes; further clients wait for their turn.
pub const COMPARE_MEMORY_BYTES: u64 = 256 << 20;
/// What a record takes in such a list and in what is made of it, in bytes, at most.
pub const COMPARE_RECORD_BYTES: u64 = 256;
/// How long a client's comparison may take, in milliseconds.
pub const COMPARE_MAX_MS: u64 = 10 * 60 * 1_000;
/// Lists of a client that are looked up at one time; further ones are not taken from the connection yet.
pub const MAX_LOOKING_UP: usize = 8;
/// What a message of changes counts for in that window beside its changes, in bytes: so even empty ones are bounded.
pub const MESSAGE_COST_BYTES: usize = 64;
/// Ids asked for in one message after a reconciliation.
pub const MAX_WANTED: usize = 16_384;
/// Records asked of the store at once when the outcome of a reconciliation is sent.
pub const WANTED_CHUNK: usize = 512;
/// Hashes in a sketch: the lowest ones of a set.
pub const SKETCH_LEN: usize = 128;
/// Coded symbols of one reconciliation: enough for some 40,000 differing records.
pub const MAX_CODED_SYMBOLS: usize = 65_536;
/// One reconciliation message, in bytes.
pub const RECONCILE_FRAME_BYTES: u64 = 1 << 20;
/// A session without a message for this long sends a ping, in milliseconds.
pub const PING_AFTER_MS: u64 = 8_000;
/// A session whose peer has been silent for this long is closed, in milliseconds: two pings were not answered.
pub const PEER_SILENT_MS: u64 = 24_000;
/// A session whose peer has a wrong clock still sends what is here, until nothing was acknowledged for this long, in
/// milliseconds.
pub const PARTING_QUIET_MS: u64 = 5_000;
/// How long it does so in all, in milliseconds.
pub const PARTING_LONGEST_MS: u64 = 60_000;
/// How long a peer has for the handshake and its hello, in milliseconds.
pub const HANDSHAKE_MS: u64 = 10_000;
/// How long a rehearsal of a session may wait for its connection, in milliseconds.
pub const REHEARSAL_CONNECT_MS: u64 = 3_000;
/// How long it may take in all, in milliseconds.
pub const REHEARSAL_MS: u64 = 30_000;
/// A pusher that skipped changes without sending any reports its checkpoint after this pause, in milliseconds.
pub const CHECKPOINT_PAUSE_MS: u64 = 250;
/// How long what a reader needs is kept for it while it is away (tombstones, former states), in milliseconds.
pub const TOMBSTONE_LEASE_MS: u64 = 90 * 24 * 3_600 * 1_000;
/// Tombstones that nobody waits for are looked for after an eighth of the lease, but at least after this pause, in
/// milliseconds,
pub const TOMBSTONE_LOOK_MIN_MS: u64 = 200;
/// and at most after this one.
pub const TOMBSTONE_LOOK_MAX_MS: u64 = 3_600 * 1_000;
/// Read connections to one file that are kept for the next reader.
pub const READERS_KEPT: usize = 4;
/// Refused writes in one message.
pub const MAX_REFUSALS: usize = 1_024;
/// Refused writes of one replica that it has not been told of or has not taken; no more of it are applied then.
pub const MAX_REFUSED: u64 = 65_536;
/// Replicas that one node may bring to a database with access rules: it gets another one with every restored file.
pub const MAX_OWNED_REPLICAS: u64 = 1_024;
/// Entries of a database's conflict log; the oldest go first.
pub const MAX_CONFLICTS: usize = 10_000;
/// A served database that nothing happened to for this long gives its caches back, in milliseconds.
pub const IDLE_DATABASE_MS: u64 = 4_000;
/// A session whose peer has not acknowledged everything sends what is new after this pause, in milliseconds.
pub const FEED_PACE_MS: u64 = 20;
/// A session with more than this under way doesn't wait for acknowledgements before it sends more, in bytes.
pub const PACED_BYTES: usize = 32 << 10;
/// A link waits for one of a higher priority no longer than this at one time, nor for one that has got nowhere for so long,
/// in milliseconds.
pub const TURN_PATIENCE_MS: u64 = 1_000;
/// A session that finds more to send when everything is acknowledged sends it this long after it last looked, in
/// milliseconds.
pub const FEED_BURST_MS: u64 = 2;
/// With every so many readers of a database, [`FEED_BURST_MS`] counts once more, up to [`FEED_BURST_MAX_MS`].
pub const FEED_BURST_READERS: usize = 5;
/// The longest that a burst is collected, in milliseconds: nobody sees that something came so much later.
pub const FEED_BURST_MAX_MS: u64 = 50;
/// Records that one transaction of a bulk update or delete changes at most.
pub const BULK_RECORDS: usize = 1_000;
/// A transaction of a bulk update or delete ends when it changes more than this, in bytes.
pub const BULK_BYTES: usize = 1 << 20;
/// Records of a page whose size nobody gave.
pub const PAGE_RECORDS: u64 = 100;
/// The longest cursor of a page that is read, in bytes of text.
pub const MAX_CURSOR_BYTES: usize = 64 << 10;
/// A search text, in bytes.
pub const MAX_SEARCH_BYTES: usize = 4 << 10;
/// Words and phrases of a search text.
pub const MAX_SEARCH_TERMS: usize = 64;
/// Connections over two files that are kept for the next join, per left file.
pub const JOINERS_KEPT: usize = 4;
/// Pairs of a field and a constant under which the index of views files one view.
pub const MAX_COVER: usize = 256;
/// Fields whose values the index of views looks at for a change.
pub const MAX_COVER_FIELDS: usize = 64;
/// Whether time has changed what a view over `now` shows is looked at no more often than this, in milliseconds,
pub const VIEW_PAUSE_MS: u64 = 1_000;
/// and with pauses so many times as long as the look takes.
pub const VIEW_PAUSE_TIMES: u32 = 50;
/// The longest such pause, and the age at which a view over `now` is bound again, in milliseconds.
pub const VIEW_MAX_AGE_MS: u64 = 60_000;
/// A client sees its own view over `now` as it was so long ago, in milliseconds: so what it begins to send is in the
/// server's view already.
pub const VIEW_CLIENT_LAG_MS: u64 = 3_000;
/// How far the readers of a database are is noted so long after one of them got further, in milliseconds.
pub const NOTE_READERS_MS: u64 = 1_000;
/// Changes that are looked at together to find the views that they concern; more concern everybody.
pub const MAX_JUDGED: usize = 1_024;
/// A session that no change concerned tells its peer where it stands this long after the first of them, in milliseconds.
pub const VIEW_SWEEP_MS: u64 = 10_000;
/// Views that one reader may hold records of, because none of them was finished before the next one came.
pub const MAX_HELD_VIEWS: usize = 8;
/// Databases that one message of changes may be tied to.
pub const MAX_BONDS: usize = 64;
/// Transactions over several databases that a database remembers, to tell readers who come later: the last ones.
pub const BONDS_KEPT: usize = 256;
/// How long a part of a transaction waits for the others while nothing comes over their sessions, in milliseconds.
pub const PARTS_WAIT_MS: u64 = 2_000;
/// How long it waits at all, in milliseconds.
pub const PARTS_WAIT_LONGEST_MS: u64 = 30_000;
/// What may wait of one session for other parts, in bytes: a session with more under way is catching up.
pub const PARTS_WAIT_BYTES: usize = 256 << 10;
/// Names that a question to another node may hold, of each kind: fields, columns, measures, keys.
pub const MAX_ASK_NAMES: usize = 256;
/// Rows of an answer in one message.
pub const MAX_ROWS: usize = 16_384;
/// Rows of an answer that are sent at once, in bytes.
pub const ROWS_BYTES: usize = 64 << 10;
/// What is read at one moment to answer a question, in bytes and in records.
pub const ASK_PAGE_BYTES: usize = 1 << 20;
/// As [`ASK_PAGE_BYTES`], in records.
pub const ASK_PAGE_RECORDS: u64 = 8_192;
/// The passage of a record that was found, in bytes.
pub const MAX_SNIPPET_BYTES: usize = 4 << 10;
/// How long a question of another node may keep a database busy at one stretch, in milliseconds.
pub const ASK_MS: u64 = 30_000;
/// Hits of a search that are answered to another node.
pub const MAX_ASKED_HITS: u64 = 1_000;
/// Groups that are answered to another node.
pub const MAX_ASKED_GROUPS: u64 = 100_000;
/// Questions of other nodes that are worked on at one time.
pub const MAX_ASKS: usize = 8;
/// Questions that wait for their turn besides; further ones are turned away.
pub const MAX_WAITING_ASKS: usize = 64;
/// How long a connection for questions may be without one, in milliseconds.
pub const ASK_IDLE_MS: u64 = 60_000;
