//! Messages to a run: never refused, taken at the next step boundary in their order, and said to be read.
#![allow(clippy::unwrap_used, missing_docs)]

use codegen_server::worker;
use codegen_store::{NewRun, Phase, Reason, Run};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    api::{TOKEN, TestApp},
    engine::engine,
    fake_model::{Answer, FakeModel},
    run_story::{Scene, finish, result, shell},
};

const PIXEL: &str = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

fn finishes(summary: &str) -> Answer {
    Answer::Call("finish", json!({"summary": summary, "success": true}))
}

fn finishes_when(summary: &str) -> (oneshot::Sender<()>, Answer) {
    let (tell, told) = oneshot::channel();
    (tell, Answer::CallWhen(told, "finish", json!({"summary": summary, "success": true})))
}

async fn scene(fake: &FakeModel) -> (Scene, Run) {
    let scene = Scene::with(|config| fake.configure(config)).await;
    let (org, user) = scene.app.store.first_org_and_admin().await.unwrap();
    let new = NewRun {
        user_id: user.id,
        prompt: "First".to_owned(),
        model: Some("anthropic/claude-sonnet-4-5".to_owned()),
        source_type: "API".to_owned(),
        ..NewRun::default()
    };
    let run = scene.app.store.create_run(org.id, new, scene.app.now()).await.unwrap();
    (scene, run)
}

async fn say(scene: &Scene, run: &Run, text: &str) {
    scene.app.store.add_message(run.org_id, run.id, text, &[], scene.app.now()).await.unwrap();
}

/// The person's words in a question to the model, in order.
fn said(question: &Value) -> Vec<String> {
    let messages = question["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "user");
    let blocks = messages.flat_map(|m| m["content"].as_array().unwrap().clone());
    blocks.filter_map(|b| b["text"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_message_while_the_model_answers_is_read_at_the_next_step_and_the_trace_says_so() {
    let (tell, first) = finishes_when("One.");
    let fake = FakeModel::start(vec![first, finishes("Two.")]).await;
    let (scene, run) = scene(&fake).await;
    say(&scene, &run, "While queued").await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    fake.asked(1).await;
    assert_eq!(said(&fake.question(0)), ["First", "While queued"]);
    say(&scene, &run, "While you answer").await;
    assert_eq!(scene.entries(&run, "messages_read").await.len(), 1, "not read before the step is done");
    tell.send(()).unwrap();
    work.await.unwrap().unwrap();
    assert_eq!(said(&fake.question(1)), ["First", "While queued", "While you answer"], "it did not end unanswered");
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "Two."));
    let rows = scene.app.store.log(run.id, 0, 100).await.unwrap();
    let seqs = |kind: &str| rows.iter().filter(|r| r.kind == kind).map(|r| r.seq).collect::<Vec<_>>();
    let read: Vec<i64> = scene
        .entries(&run, "messages_read")
        .await
        .iter()
        .flat_map(|r| serde_json::from_value::<Vec<i64>>(r["messages"].clone()).unwrap())
        .collect();
    assert_eq!(read, seqs("user_message")[1..], "each message is said to be read, once");
}

#[tokio::test]
async fn a_message_during_a_command_is_in_the_trace_at_once_and_read_after_it() {
    let scene = Scene::new().await;
    let replies = [shell("echo begun; while [ ! -e /tmp/go ]; do sleep 0.05; done"), finish("One."), finish("Two.")];
    let run = scene.queue(None, &replies).await;
    let mut viewer = scene.app.watches.view(&run, 0);
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    let mut text = String::new();
    let mut until = async |words: &str| {
        while !text.contains(words) {
            text.push_str(std::str::from_utf8(&viewer.next().await.unwrap().unwrap()).unwrap());
        }
        text.clone()
    };
    until("\"text\":\"begun").await;
    say(&scene, &run, "Hurry").await;
    let so_far = until("Hurry").await;
    assert!(!so_far.contains("event: call_finished"), "{so_far}");
    let sandbox = scene.app.store.run_by_id(run.id).await.unwrap().sandbox_id.unwrap();
    let fence = codegen_sandbox::Fence { incarnation: 0, attempt: 1 };
    let sandbox = scene.app.engine.attach(&sandbox, fence).await.unwrap();
    let go = codegen_sandbox::Exec { argv: ["touch", "/tmp/go"].map(str::to_owned).to_vec(), ..Default::default() };
    sandbox.start(go).await.unwrap().complete().await.unwrap();
    work.await.unwrap().unwrap();
    let all = until("event: end").await;
    let place = |words: &str| all.find(words).unwrap_or_else(|| panic!("{words} in {all}"));
    assert!(place("event: call_finished") < place("event: messages_read"), "{all}");
}

#[tokio::test]
async fn a_hundred_messages_at_once_are_read_in_the_order_of_the_trace() {
    let (tell, first) = finishes_when("One.");
    let fake = FakeModel::start(vec![first, finishes("Two.")]).await;
    let (scene, run) = scene(&fake).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    fake.asked(1).await;
    let texts: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
    futures::future::join_all(texts.iter().map(|text| say(&scene, &run, text))).await;
    tell.send(()).unwrap();
    work.await.unwrap().unwrap();
    let in_trace: Vec<String> =
        scene.entries(&run, "user_message").await.iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(in_trace.len(), 101);
    assert_eq!(said(&fake.question(1)), in_trace);
}

#[tokio::test]
async fn a_message_that_came_while_the_model_answered_is_not_lost_when_the_process_dies_after_the_answer() {
    let (tell, first) = finishes_when("One.");
    let fake = FakeModel::start(vec![first, finishes("Two.")]).await;
    let (scene, run) = scene(&fake).await;
    let work = tokio::spawn(worker::execute_one(scene.app.clone(), run.id));
    fake.asked(1).await;
    say(&scene, &run, "Do not forget").await;
    tell.send(()).unwrap();
    // The answer is durable, what follows from it is not.
    scene.until(&run, async |_| !scene.entries(&run, "reply").await.is_empty()).await;
    work.abort();
    work.await.ok();
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    if run.phase != Phase::Done {
        scene.app.store.release_run(&run.claim(), "It died.", scene.app.now()).await.unwrap();
        worker::execute_one(scene.app.clone(), run.id).await.unwrap();
    }
    fake.asked(2).await;
    assert_eq!(said(&fake.question(1)), ["First", "Do not forget"]);
}

#[tokio::test]
async fn a_message_after_a_stop_continues_the_conversation_once_it_has_stopped() {
    let fake = FakeModel::start(vec![Answer::Hangs, finishes("Two.")]).await;
    let (scene, run) = scene(&fake).await;
    let serving = tokio::spawn(worker::run(scene.app.clone()));
    fake.asked(1).await;
    scene.app.store.request_stop(run.org_id, run.id, scene.app.now()).await.unwrap();
    say(&scene, &run, "No, go on like this").await;
    fake.asked(2).await;
    let mut told = said(&fake.question(1));
    // What it had said when it was cut off stands between, if any of it had come.
    told.retain(|words| !words.starts_with("[codegen] This answer was cut off"));
    assert_eq!(told, ["First", "No, go on like this"]);
    scene.until(&run, async |run| run.phase == Phase::Done).await;
    let run = scene.app.store.run_by_id(run.id).await.unwrap();
    assert_eq!((run.reason, result(&run)), (Some(Reason::Complete), "Two."));
    scene.app.shutdown.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn images_of_a_follow_up_over_http_reach_the_model_in_both_wire_formats() {
    for model in ["anthropic/claude-sonnet-4-5", "openai/gpt-4.1"] {
        let (tell, first) = finishes_when("One.");
        let fake = FakeModel::start(vec![first, finishes("Two.")]).await;
        let dir = tempfile::tempdir().unwrap();
        let made = engine(dir.path());
        let env = [
            ("ANTHROPIC_BASE_URL", fake.url.as_str()),
            ("OPENAI_BASE_URL", fake.url.as_str()),
            ("OPENAI_API_KEY", "sk-none"),
        ];
        let app = TestApp::on(dir, &env, made).await;
        let (status, run) = app.post("/v1/organizations/1/agent/run", &json!({"prompt": "Look", "model": model})).await;
        assert_eq!(status, 200, "{run}");
        fake.asked(1).await;
        let more = json!({"agent_run_id": run["id"], "prompt": "And at this", "images": [PIXEL]});
        let (status, resumed) = app.post("/v1/organizations/1/agent/run/resume", &more).await;
        assert_eq!((status, &resumed["new_agent_run_id"]), (200, &run["id"]));
        tell.send(()).unwrap();
        let path = format!("/v1/organizations/1/agent/run/{}/events", run["id"]);
        app.asks(Method::GET, &path, Some(TOKEN)).send().await.unwrap().text().await.unwrap();
        let question = fake.question(1);
        let data = PIXEL.split_once(',').unwrap().1;
        let images: Vec<Value> = question["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|m| m["content"].as_array())
            .flatten()
            .filter(|b| matches!(b["type"].as_str(), Some("image" | "image_url")))
            .cloned()
            .collect();
        let expected = if model.starts_with("anthropic") {
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}})
        } else {
            json!({"type": "image_url", "image_url": {"url": PIXEL}})
        };
        assert_eq!(images.len(), 1, "{model}: {question}");
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&images[0][key], value, "{model}");
        }
        app.app.shutdown.cancel();
    }
}
