//! The example does what its text says: every line of its output.

#[allow(dead_code, reason = "the example's own entry is not called")]
#[path = "../../../examples/bug_tracker.rs"]
mod bug_tracker;

const STORY: &str = r#"hub: serves bugs, comments, metrics, users
anna: made the keys of bugs, and connected five databases
anna: created 2 bugs, each with a comment and a metric in one transaction
anna: crash on start (Anna), slow search (Anna)
hub: holds 2 bugs, and can read of them: teamId, teamId
ben: joined by anna's invitation: crash on start (Anna), slow search (Anna)
ben: live list: + crash on start
ben: live list: + battery drain
ben: live list: - crash on start
anna: battery drain (Anna), crash on start (Anna), slow search (Anna), typo in menu (Ben)
ben: has 4 comments of his team; the hub has 5
ben: the hub found in comments of ios: [starts], then crashes
ben: the hub found in comments of web: the page [starts] slowly
ben: the hub counted comments of "ios": 4
ben: the hub counted comments of "web": 1
ben: database bugs: its text is sealed for the other side, which can't be asked about it, only about teamId
hub: collected 4 metrics; ben has 1 of his own
drafts: 1 on anna's device, 0 on ben's, none at the hub
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_is_told_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Vec::new();
    let ended = bug_tracker::run(dir.path(), &mut told).await;
    let told = String::from_utf8(told).unwrap();
    ended.unwrap_or_else(|error| panic!("{error}, after:\n{told}"));
    assert_eq!(told, STORY);
}
