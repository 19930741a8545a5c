//! What the loop itself costs.

use std::time::Instant;

use serde_json::json;

use crate::fake::{ClosureModel, HostSandbox, MemoryLog, calls, run, says};

#[tokio::test]
async fn a_turn_costs_the_loop_less_than_a_millisecond_in_the_mean() {
    let turns = 200;
    let model = ClosureModel::answering(move |n, _| {
        Ok(if n < turns { calls(&[(&format!("c{n}"), "none", json!({"x": "y".repeat(1000)}))]) } else { says("end") })
    });
    let began = Instant::now();
    run(model, HostSandbox::new(), &mut MemoryLog::default()).await.unwrap();
    let micros = began.elapsed().as_micros() / turns as u128;
    println!("{micros} µs a turn");
    assert!(micros < 1000, "{micros} µs a turn");
}
