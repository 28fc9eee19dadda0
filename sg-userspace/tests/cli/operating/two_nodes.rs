//! What the test of docs/two-nodes.md does beside its commands: it asks the Prometheus of the page
//! all that the dashboard asks.

use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::page::Step;
use super::world::World;
use crate::metrics::deployed::dashboard_queries;

/// The Prometheus of the page, as its commands reach it.
const ASK: &str = "ip netns exec monitor promtool query instant http://127.0.0.1:9090";

/// Does what a note on the page stands for. Returns what is not as it should be.
pub(super) fn look(name: &str, world: &mut World) -> Vec<String> {
    assert_eq!(
        name, "the queries of the dashboard",
        "the test knows no other note"
    );
    let queries = dashboard_queries();
    assert!(queries.len() >= 12, "{queries:?}");
    let unanswered = queries.into_iter().filter_map(|(panel, query)| {
        let answer = ask(&query, world);
        let has_data = answer.contains("=>") && !answer.contains("NaN");
        (!has_data).then(|| format!("{panel}: `{query}` gives {answer:?}"))
    });
    unanswered.collect()
}

/// Asks until there is an answer: rates need two readings.
fn ask(query: &str, world: &mut World) -> String {
    let step = Step {
        line: String::new(),
        is_clients: false,
        command: format!("{ASK} '{query}'"),
        shown: (0, 0),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = world.run(&step);
        if answer.contains("=>") || Instant::now() > deadline {
            return answer;
        }
        thread::sleep(Duration::from_millis(500));
    }
}
