//! The page in a real browser: what it shows, how soon, and that what it shows is never run.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod asking;
#[cfg(test)]
mod common;
mod synthetic;
mod webdriver;

use std::time::{Duration, Instant};

use common::{Place, address_in};
use synthetic::{Shape, serve};
use webdriver::{Browser, wait};

const SOON: Duration = Duration::from_secs(30);
/// How soon a link that is gone is shown as gone.
const GONE: Duration = Duration::from_secs(3);

const NAMES: &str =
    "return [...document.querySelectorAll('.card .name')].map(name => name.textContent).sort().join()";

/// What stands on something else, or beyond the window.
const OVERLAPS: &str = r"
    const found = [];
    const box = (node) => node.getBoundingClientRect();
    const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
    if (document.documentElement.scrollWidth > innerWidth) found.push('wider than the window');
    const parts = ['.bar', '.tools', '.graph', '.foot'].map((part) => document.querySelector(part));
    const cards = [...document.querySelectorAll('.card')];
    const check = (nodes) => nodes.forEach((a, i) => nodes.slice(i + 1).forEach((b) => {
        if (!apart(box(a), box(b))) found.push(`${a.className} on ${b.className}`);
    }));
    check(parts);
    check(cards);
    check([...document.querySelectorAll('.bar > *, .tabs > *, .bar-end > *')].filter((node) => !node.querySelector('button')));
    const frame = box(document.querySelector('.graph'));
    for (const card of cards) {
        const at = box(card);
        if (at.left < frame.left || at.right > frame.right || at.top < frame.top || at.bottom > frame.bottom) found.push('a card out of sight');
    }
    return found.join('; ')";

/// What the details say, by name.
const FACTS: &str = "
    const names = [...document.querySelectorAll('#details dt')];
    return Object.fromEntries(names.map((name) => [name.textContent, name.nextElementSibling.textContent]))";

/// Cells of the list that are cut off.
const OUT_OF_SIGHT: &str = r"
    const wide = document.querySelector('#list').getBoundingClientRect();
    const cells = [...document.querySelectorAll('#list td')].filter((cell) => cell.getBoundingClientRect().right > wide.right + 1);
    return cells.map((cell) => cell.textContent).join('; ')";

#[test]
fn the_demo_is_all_there_and_can_be_looked_into() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "none", "");
    let mut demo = place.start(&["demo", "--seconds", "120"]);
    let first = demo.line();
    let page = first.split_whitespace().last().unwrap().to_owned();
    assert!(page.starts_with("http://127.0.0.1:"), "the page's address comes first: {first}");
    browser.look(1280, 800, false);
    browser.open(&page);
    wait("every node", SOON, || (browser.run(NAMES) == "hub,kiosk,laptop,phone,tablet").then_some(()));
    // Three databases of each of four devices are linked to the hub's.
    browser.click("#as-list");
    browser.until("every link", SOON, "return document.querySelectorAll('#list tbody tr').length === 12");
    // The phone comes and goes every three seconds.
    browser.until(
        "the phone goes",
        SOON,
        "return document.querySelector('#list').textContent.includes('offline')",
    );
    browser.click("#as-graph");

    browser.click(".card.this .db");
    browser.until(
        "a database's details",
        SOON,
        "return document.querySelector('#details').textContent.includes('Recent changes')",
    );
    let looks = [(1280, 800, false), (1280, 800, true), (390, 844, false), (390, 844, true)];
    for (width, height, dark) in looks {
        browser.look(width, height, dark);
        browser.picture(&format!("details-{width}-{}", if dark { "dark" } else { "light" }));
    }
    browser.look(1280, 800, false);
    browser.click("#details header button");
    click_a_link(&browser);
    browser.until("its charts", SOON, "return document.querySelectorAll('#details .chart').length === 6");

    browser.click("[data-view=records]");
    browser.until("records", SOON, "return document.querySelectorAll('tr.pick[data-record]').length > 3");
    browser.click("input[aria-label=Filter]");
    browser.type_text("status == \"open\" && has(title)");
    browser.click("#find");
    browser.until("those that match", SOON, "const cells = [...document.querySelectorAll('tr.pick[data-record]')]; return cells.length > 0 && cells.every(row => row.textContent.includes('open'))");
    browser.click("tr.pick[data-record]");
    browser.until("a record's fields and links", SOON, "const text = document.querySelector('#records aside').textContent; return text.includes('Last write') && text.includes('laptop')");
    let said = "return document.querySelector('#records aside').textContent";
    let text = browser.run(said).as_str().unwrap().to_owned();
    assert!(!text.contains("null") && !text.contains("[object"), "{text}");
    browser.picture("records-1280-light");
    browser.click("[data-view=problems]");
    browser.until(
        "problems",
        SOON,
        "return document.querySelector('#problems').textContent.includes('Writes that lost a conflict')",
    );
    browser.picture("problems-1280-light");
    browser.click("[data-view=apply]");
    browser.click("#apply textarea");
    browser.type_text("[node]");
    browser.click("#apply button.primary");
    browser.until(
        "a word on the plan",
        SOON,
        "return document.querySelector('#apply [role=status]').textContent !== ''",
    );
    browser.picture("apply-1280-light");
    assert_eq!(unexpected(&browser), Vec::<String>::new());
}

/// Complaints of the console but for routes that this version lacks.
fn unexpected(browser: &Browser) -> Vec<String> {
    let complaints = browser.complaints().into_iter();
    let lacking = |text: &String| ["/rejected", "/v1/apply"].iter().any(|route| text.contains(route));
    complaints.filter(|text| !lacking(text)).collect()
}

fn click_a_link(browser: &Browser) {
    const POINT: &str = "
        const root = document.querySelector('#graph');
        const node = (name) => [...document.querySelectorAll('.card')].find(card => card.querySelector('.name').textContent === name).dataset.node;
        const at = root.linkPoint(`${node('laptop')}/bugs>${node('hub')}/bugs`);
        return at && [at.x, at.y]";
    wait("a link's details", SOON, || {
        let before = browser.until("a link on the canvas", SOON, POINT);
        // A panel that closes makes room, and the picture moves for a moment.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let at = browser.until("a link on the canvas", SOON, POINT);
        if before != at {
            return None;
        }
        browser.click_at(at[0].as_f64().unwrap(), at[1].as_f64().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
        let shown = "return !!document.querySelector('#details h2')?.textContent.includes('laptop / bugs')";
        (browser.run(shown) == true).then_some(())
    });
}

#[test]
fn nothing_overlaps_light_or_dark_wide_or_narrow() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path(), "none", "");
    let mut demo = place.start(&["demo", "--seconds", "120"]);
    let page = demo.line().split_whitespace().last().unwrap().to_owned();
    for (width, height, dark) in [(1280, 800, false), (1280, 800, true), (390, 844, false), (390, 844, true)]
    {
        browser.look(width, height, dark);
        browser.open(&page);
        wait("every node", SOON, || (browser.run(NAMES) == "hub,kiosk,laptop,phone,tablet").then_some(()));
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(browser.run(OVERLAPS), "", "{width} dark={dark}");
        browser.picture(&format!("topology-{width}-{}", if dark { "dark" } else { "light" }));
        browser.click("#as-list");
        browser.until("the list", SOON, "return document.querySelectorAll('#list tbody tr').length === 12");
        assert_eq!(browser.run(OUT_OF_SIGHT), "", "{width} dark={dark}");
        browser.picture(&format!("list-{width}-{}", if dark { "dark" } else { "light" }));
        browser.click("#as-graph");
        let theme = browser.run("return document.documentElement.dataset.theme");
        assert_eq!(theme, if dark { "dark" } else { "light" });
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

const HUB: &str = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n[auth]\nanonymous = true\n\
                   [databases.bugs]\nplaintext = true\nserve = 'bidirectional'\naccess = { public = true }\n";

#[test]
fn a_killed_device_is_shown_as_gone_and_names_and_records_are_only_text() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (hub_node, ready) = hub.up();
    let listen = address_in(&ready);
    let admin = ready.split("admin=").nth(1).unwrap();
    let bugs =
        format!("[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{listen}'\n");
    let device = Place::new(dir.path(), "device", &bugs);
    let evil = "<img src=x onerror=alert(1)>";
    let file = device.0.join("blazedb.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("'device'", &format!("'{evil}'"));
    std::fs::write(&file, text).unwrap();
    device.ok(&[
        "insert",
        "bugs",
        &format!(r#"{{"title": "<script>window.ran = 1</script>", "{evil}": "{evil}"}}"#),
    ]);
    let (device_node, _) = device.up();

    browser.look(1280, 800, false);
    browser.open(&format!("http://{admin}/"));
    browser.until(
        "the device by its name",
        SOON,
        &format!(
            "return [...document.querySelectorAll('.card .name')].some(name => name.textContent === '{evil}')"
        ),
    );
    browser.click("#as-list");
    browser.until(
        "its link is up",
        SOON,
        "return /idle|syncing/.test(document.querySelector('#list tbody').textContent)",
    );
    drop(device_node);
    let killed = Instant::now();
    browser.until(
        "its link is offline",
        GONE,
        "return document.querySelector('#list tbody').textContent.includes('offline')",
    );
    println!("offline on the page {} ms after the kill", killed.elapsed().as_millis());
    browser.click("#list tbody tr");
    browser.click("[data-view=records]");
    browser.until(
        "the record",
        SOON,
        "return document.querySelectorAll('tr.pick[data-record]').length === 1",
    );
    browser.click("tr.pick[data-record]");
    browser.until(
        "its text",
        SOON,
        "return document.querySelector('#records aside').textContent.includes('window.ran')",
    );
    assert_eq!(browser.run("return window.ran ?? [...document.querySelectorAll('img, script')].filter(node => !node.src.includes('/page/')).length"), 0);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(hub_node);
}

#[test]
fn a_database_is_made_read_only_on_the_page_and_the_edge_changes() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (_hub, ready) = hub.up();
    let told = |ready: &str, name: &str| {
        ready.split(&format!("{name}=")).nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let (listen, hub_page) = (told(&ready, "listen"), format!("http://{}/", told(&ready, "admin")));
    let device = format!(
        "admin = '127.0.0.1:0'\n[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{listen}'\n"
    );
    let device = Place::new(dir.path(), "device", &device);
    device.ok(&["insert", "bugs", r#"{"title": "crash"}"#]);
    let (_device, ready) = device.up();
    browser.look(1280, 800, false);
    browser.open(&format!("http://{}/", told(&ready, "admin")));
    browser.until("the graph", SOON, "return document.querySelectorAll('.card').length === 2");
    browser.click("#as-list");
    let row = |way: &str, mode: &str| {
        format!(
            "const row = document.querySelector('#list tbody tr')?.textContent ?? ''; return row.includes('{way}') && row.includes('{mode}') && /idle|syncing/.test(row)"
        )
    };
    browser.until("both ways", SOON, &row("↔", "bidirectional"));
    browser.click("[data-view=apply]");
    browser.until(
        "the node's own file",
        SOON,
        "return document.querySelector('#apply textarea').value.includes('[databases.bugs]')",
    );
    browser.run("const text = document.querySelector('#apply textarea'); text.value += \"mode = 'read-only'\\n\"; text.dispatchEvent(new Event('input'))");
    browser.click("#apply button.primary");
    browser.until(
        "the plan",
        SOON,
        "return document.querySelector('#apply table')?.textContent.includes('read-only')",
    );
    browser.picture("plan-real-1280-light");
    browser.click("#apply button:not(.primary)");
    browser.until(
        "done",
        SOON,
        "return document.querySelector('#apply [role=status] h3')?.textContent === 'Done'",
    );
    browser.click("[data-view=topology]");
    browser.until("one way, on the device's page", SOON, &row("←", "read-only"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.open(&hub_page);
    browser.until("the graph", SOON, "return document.querySelectorAll('.card').length === 2");
    browser.click("#as-list");
    browser.until("one way, on the hub's page", SOON, &row("←", "read-only"));
    browser.click("#list tbody tr");
    browser.until(
        "details",
        SOON,
        "return document.querySelector('#details').textContent.includes('server to client')",
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_figures_on_the_page_are_those_of_the_status_command() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (_hub, ready) = hub.up();
    let listen = address_in(&ready);
    let device = format!(
        "admin = '127.0.0.1:0'\n[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{listen}'\n"
    );
    let device = Place::new(dir.path(), "device", &device);
    let (_device, ready) = device.up();
    for no in 0..25 {
        device.ok(&["insert", "bugs", &format!(r#"{{"title": "crash {no}"}}"#)]);
    }
    browser.look(1280, 800, false);
    browser.open(&format!("http://{}/", ready.split("admin=").nth(1).unwrap()));
    browser.until("the graph", SOON, "return document.querySelectorAll('.card').length === 2");
    browser.click("#as-list");
    browser.until("the link", SOON, "return document.querySelector('#list tbody tr') !== null");
    browser.click("#list tbody tr");
    // Of a quiet link, both tell the same; the page in few digits.
    wait("the same figures", SOON, || {
        let status: serde_json::Value = serde_json::from_str(&device.ok(&["status", "--json"])).unwrap();
        let link = &status["links"][0];
        let told = |way: &str| {
            let short = browser.run(&format!(
                "const {{ bytes, number }} = await import('/page/format.js'); return `${{bytes({})}}, ${{number({})}} changes`",
                link[format!("bytes_{way}")], link[format!("changes_{way}")],
            ));
            short.as_str().unwrap().to_owned()
        };
        let facts = browser.run(FACTS);
        let records = browser.run(
            "return [...document.querySelectorAll('.card.this .db .num')].map(one => one.textContent).join()",
        );
        let same = facts["Sent"] == told("sent") && facts["Received"] == told("received");
        let counted =
            records == "25" && status["databases"][0]["records"] == 25 && link["changes_sent"] == 25;
        (same && counted && facts["Pending here"] == "0 changes" && link["pending"] == 0).then_some(())
    });
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_hub_shows_sealed_fields_as_sealed_and_never_what_they_hold() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", HUB);
    let (_hub, ready) = hub.up();
    let listen = address_in(&ready);
    let device = format!(
        "[databases.bugs]\nplaintext = true\npattern = 'hub-and-spoke'\nhub = 'ws://{listen}'\n[databases.bugs.policy]\nencryption = 'e2e-only'\nrouting_fields = ['teamId']\n"
    );
    let device = Place::new(dir.path(), "device", &device);
    device.ok(&["key", "create", "bugs"]);
    let id =
        device.ok(&["insert", "bugs", r#"{"title": "MARK-sealed", "note": "MARK-too", "teamId": "ios"}"#]);
    device.ok(&["sync"]);
    let admin = ready.split("admin=").nth(1).unwrap();
    for path in ["records", "query", "export", "conflicts", "", "keys"]
        .map(|path| format!("/{path}"))
        .iter()
        .chain([&format!("/records/{id}"), &format!("/records/{id}/explain")])
    {
        let method = if path == "/query" { "POST" } else { "GET" };
        let path = format!("/v1/databases/bugs{}", path.trim_end_matches('/'));
        let (status, body) = asking::http(admin, &format!("{method} {path}"), &[], "");
        assert!(status == 200 && !body.contains("MARK"), "{path}: {status} {body}");
    }
    browser.look(1280, 800, false);
    browser.open(&format!("http://{admin}/"));
    browser.until("the graph", SOON, "return document.querySelectorAll('.card').length === 2");
    browser.click("#as-list");
    browser.until("the link", SOON, "return document.querySelector('#list tbody tr') !== null");
    browser.click("#list tbody tr");
    browser.until("that it is sealed, and by which keys", SOON, "const text = document.querySelector('#details').textContent; return text.includes('sealed end to end, routing fields aside') && text.includes('Key epoch1')");
    browser.click("[data-view=records]");
    browser.until("a record with two sealed fields", SOON, "const row = document.querySelector('tr.pick[data-record]')?.textContent ?? ''; return row.includes('2 fields sealed') && row.includes('ios')");
    browser.click("tr.pick[data-record]");
    browser.until("sealed fields", SOON, "return [...document.querySelectorAll('#records aside tr')].filter(row => row.textContent.startsWith('sealed field') && row.querySelector('.sealed')).length === 2");
    browser.picture("sealed-1280-light");
    assert_eq!(browser.run("return document.body.textContent.includes('MARK')"), false);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_users_page_shows_what_that_user_may_see() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = "listen = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n[auth]\n\
         issuers = [{ name = 'self', key_file = 'data/issuer.pub' }]\n[databases.bugs]\nplaintext = true\n\
         serve = 'bidirectional'\n[databases.bugs.access]\nconnect = 'true'\nread = 'record.teamId in user.teams'\n\
         [databases.secret]\nplaintext = true\n";
    let hub = Place::new(dir.path(), "hub", hub);
    let (_hub, ready) = hub.up();
    for team in ["ios", "android", "ios"] {
        hub.ok(&["insert", "bugs", &format!(r#"{{"title": "of {team}", "teamId": "{team}"}}"#)]);
    }
    let token = hub.ok(&["token", "issue", "--user", "alice", "--team", "ios"]);
    browser.look(1280, 800, false);
    browser.open(&format!("http://{}/", ready.split("admin=").nth(1).unwrap()));
    browser.until("everything", SOON, "return document.querySelectorAll('.card .db').length === 2 && document.querySelector('#account').textContent === 'admin'");
    browser.click("#account");
    browser.click("#token");
    browser.type_text(&token);
    browser.press("Enter");
    browser.until("alice's page", SOON, "return document.querySelector('#account').textContent === 'alice' && document.querySelector('[data-view=apply]').hidden && [...document.querySelectorAll('.card .db')].map(row => row.textContent).join() === 'bugs2'");
    browser.picture("user-1280-light");
    browser.click(".card .db");
    browser.until(
        "what alice may read",
        SOON,
        "return document.querySelector('#details').textContent.includes('teamId in [\"ios\"]')",
    );
    browser.click("[data-view=records]");
    browser.until(
        "alice's records",
        SOON,
        "return document.querySelectorAll('tr.pick[data-record]').length === 2",
    );
    browser.click("tr.pick[data-record]");
    browser.until(
        "a record",
        SOON,
        "return document.querySelector('#records aside').textContent.includes('of ios')",
    );
    browser.click("[data-view=problems]");
    browser.until(
        "conflicts alone",
        SOON,
        "return [...document.querySelectorAll('#problems h3')].map(title => title.textContent).join() === 'Writes that lost a conflict'",
    );
    assert_eq!(browser.run("return /android|secret/.test(document.body.textContent)"), false);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.click("#account");
    browser.picture("account-1280-light");
    browser.click("#logout");
    browser.until("everything again", SOON, "return document.querySelectorAll('.card .db').length === 2");
}

#[test]
fn with_a_token_the_page_asks_for_it() {
    let Some(browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hub = Place::new(dir.path(), "hub", &HUB.replacen("[auth]", "admin_token_file = 'token'\n[auth]", 1));
    std::fs::write(hub.0.join("token"), "correct horse\n").unwrap();
    let (node, ready) = hub.up();
    browser.look(1280, 800, true);
    browser.open(&format!("http://{}/", ready.split("admin=").nth(1).unwrap()));
    browser.until("the form", SOON, "return document.querySelector('#login').open");
    browser.picture("login-1280-dark");
    browser.click("#token");
    browser.type_text("wrong");
    browser.press("Enter");
    browser.until(
        "a refusal",
        SOON,
        "return document.querySelector('#login-error').textContent.includes('not the token')",
    );
    browser.run("document.querySelector('#token').value = ''");
    browser.click("#token");
    browser.type_text("correct horse");
    browser.press("Enter");
    browser.until(
        "the graph",
        SOON,
        "return document.querySelectorAll('.card').length === 1 && !document.querySelector('#login').open",
    );
    assert_eq!(browser.run("return document.cookie"), "", "no script reads the cookie");
    drop(node);
}

/// Zooms and pans for two seconds; answers the pictures a second, and the longest pause between two, in milliseconds.
const MOVE: &str = r"
    const done = arguments[arguments.length - 1];
    const root = document.querySelector('#graph');
    const frame = root.getBoundingClientRect();
    const started = performance.now();
    let [last, longest, frames] = [started, 0, 0];
    const step = (now) => {
        longest = Math.max(longest, now - last);
        last = now;
        frames += 1;
        const wheel = { deltaY: Math.sin(frames / 12) * 30, clientX: frame.left + 500, clientY: frame.top + 300, bubbles: true, cancelable: true };
        root.dispatchEvent(new WheelEvent('wheel', wheel));
        if (now - started < 2000) requestAnimationFrame(step);
        else done([frames / ((now - started) / 1000), longest]);
    };
    requestAnimationFrame(step);";

#[test]
fn five_hundred_nodes_and_two_thousand_links_stay_smooth() {
    let Some(browser) = Browser::start() else { return };
    let page = serve(Shape::Hierarchy { edges: 20, nodes: 500, databases: 4 });
    browser.look(1280, 800, false);
    let opened = Instant::now();
    browser.open(&page);
    browser.until("every node", SOON, "return document.querySelectorAll('.card').length === 500");
    let shown = opened.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    browser.picture("many-1280-light");
    let smooth = browser.run_async(MOVE);
    let (rate, longest) = (smooth[0].as_f64().unwrap(), smooth[1].as_f64().unwrap());
    // Pictures a second are the machine's without a graphics card, and what else it does; what a picture takes is ours.
    let times = browser.run("return Array.from({ length: 31 }, () => document.querySelector('#graph').pictureTime()).sort((a, b) => a - b)");
    let median = times[15].as_f64().unwrap();
    println!(
        "500 nodes, 1,996 links: shown in {shown:?}; a picture takes {median:.1} ms; {rate:.0} pictures a second without a graphics card, longest pause {longest:.0} ms"
    );
    assert!(median < 33.0 && rate > 3.0, "{median:.1} ms a picture, {rate:.1} a second");
    let place = "const at = document.querySelector('#graph').nodePoint('node-77'); return [at.x, at.y]";
    browser.run("document.querySelector('#fit').click()");
    let before = browser.run(place);
    // What changes every second meanwhile moves nobody.
    let ops = "return document.querySelector('#summary').textContent";
    let told = browser.run(ops);
    wait("figures that are others", SOON, || (browser.run(ops) != told).then_some(()));
    assert_eq!(browser.run(place), before);
    // From node to node by keys, and into details.
    browser.run("document.querySelector('.card.this .head').focus({ focusVisible: true })");
    browser.press("ArrowRight");
    let focused = browser.run("return document.activeElement.closest('.card').dataset.node");
    assert_ne!(focused, "node-0", "the arrow goes to another node");
    browser.press("Enter");
    let name = focused.as_str().unwrap().replace("node", "device");
    browser.until(
        "the details of the node with the focus",
        SOON,
        &format!("return document.querySelector('#details h2')?.textContent === '{name}'"),
    );
    // And by a click on what is drawn.
    let at = browser.run("const root = document.querySelector('#graph'); root.focus(); document.querySelector('#fit').click(); const at = root.nodePoint('node-3'); return [at.x, at.y]");
    browser.click_at(at[0].as_f64().unwrap(), at[1].as_f64().unwrap());
    browser.until(
        "the details of the node under the pointer",
        SOON,
        "return document.querySelector('#details h2')?.textContent === 'device-3'",
    );
    browser.run("document.querySelector('#fit').click(); document.querySelector('#search').focus()");
    browser.type_text("device-123");
    browser.press("Enter");
    browser.until(
        "the one that was searched",
        SOON,
        "return document.querySelector('#details h2')?.textContent === 'device-123'",
    );
    browser.picture("many-found-1280-light");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn every_pattern_has_a_form_in_which_nothing_overlaps() {
    let Some(browser) = Browser::start() else { return };
    for (name, shape) in [
        ("tree", Shape::Hierarchy { edges: 3, nodes: 12, databases: 1 }),
        ("mesh", Shape::Mesh { nodes: 7 }),
        ("chain", Shape::Chain { nodes: 4 }),
        ("hub", Shape::Hub { nodes: 31 }),
    ] {
        let page = serve(shape);
        browser.look(1280, 800, name == "mesh");
        browser.open(&page);
        browser.until(name, SOON, "return document.querySelectorAll('.card').length > 3");
        std::thread::sleep(Duration::from_millis(600));
        browser.picture(&format!("pattern-{name}"));
        assert_eq!(browser.run(OVERLAPS), "", "{name}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn refused_writes_can_be_retried_and_a_plan_is_seen_before_it_is_applied() {
    let Some(browser) = Browser::start() else { return };
    let page = serve(Shape::Hub { nodes: 4 });
    browser.look(1280, 800, false);
    browser.open(&page);
    browser.until("the graph", SOON, "return document.querySelectorAll('.card').length === 4");
    browser.click("[data-view=problems]");
    browser.until("the refused write", SOON, "const text = document.querySelector('#problems').textContent; return ['access rule update', 'title: <b>mine</b>', 'note: removed', 'Retry', 'Drop'].every(part => text.includes(part))");
    browser.picture("rejected-1280-light");
    browser.click("[data-view=apply]");
    let disabled = "return document.querySelectorAll('#apply button:disabled').length";
    assert_eq!(browser.run(disabled), 1, "nothing is applied that was not planned");
    browser.click("#apply textarea");
    browser.type_text("[node]");
    browser.click("#apply button.primary");
    browser.until(
        "the plan",
        SOON,
        "return document.querySelector('#apply table')?.textContent.includes('at most 12 records, 4.0 KiB')",
    );
    assert_eq!(browser.run(disabled), 0);
    browser.picture("plan-1280-light");
    browser.click("#apply textarea");
    browser.type_text("x");
    assert_eq!(browser.run(disabled), 1, "another text has another plan");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
