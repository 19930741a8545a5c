//! An organization as a whole.

use codegen_store::{Error, NewInvitation, NewRepo, NewRun, NewToken, Role};

use crate::{Fixture, ada};

#[tokio::test]
async fn an_organization_that_is_removed_leaves_no_row_in_any_table() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let mine = fixture.queue("mine").await;
    let org = store.create_org("Gone", 1).await.unwrap();
    let eve =
        store.add_member(org.id, codegen_store::NewUser { github_user_id: "9".to_owned(), ..ada() }, Role::Admin, 1);
    let eve = eve.await.unwrap();
    let robot = store.create_service_account(org.id, "service:x", "ci", Role::Member, 2).await.unwrap();
    let token = NewToken { user_id: robot.user.id, hash: "robot".to_owned(), ..NewToken::default() };
    let token = store.create_token(token, 2).await.unwrap();
    let session = codegen_store::NewSession {
        hash: "cookie".to_owned(),
        user_id: robot.user.id,
        token_id: Some(token.id),
        expires_at: 99,
        ..codegen_store::NewSession::default()
    };
    store.add_session(session, 2).await.unwrap();
    let invitation =
        NewInvitation { hash: "i".to_owned(), role: Role::Member, email: None, invited_by: eve.id, expires_at: 99 };
    store.invite(org.id, invitation, 3).await.unwrap();
    let repo = store.create_repo(org.id, NewRepo::of_origin("/srv/gone", None), 3).await.unwrap();
    for n in 0..20 {
        let asks = NewRun { user_id: robot.user.id, repo_id: Some(repo.id), ..fixture.asks(&format!("gone {n}")) };
        let run = store.create_run(org.id, asks, 4).await.unwrap();
        store.put_blob(org.id, run.id, "diff", b"x").await.unwrap();
    }
    assert!(matches!(store.remove_part(org.id).await, Err(Error::NotFound)), "only what was deleted");
    store.delete_org(org.id, 5).await.unwrap();
    assert!(store.org_member(org.id, eve.id).await.unwrap().is_none());
    assert!(store.owner_of_token("robot", None, 6).await.unwrap().is_none());
    assert_eq!(store.deleted_orgs().await.unwrap()[0].live_runs, 0, "none was claimed");
    let mut parts = 1;
    while !store.remove_part(org.id).await.unwrap() {
        parts += 1;
    }
    assert!(parts > 2, "in small commits: {parts}");

    let mut conn = fixture.connect().await.unwrap();
    let sql = if fixture.url.is_some() {
        "SELECT CAST(c.table_name AS TEXT), CAST(c.column_name AS TEXT) FROM information_schema.columns c
         JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
         WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'"
    } else {
        "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    };
    let columns: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap();
    let mut looked_at = 0;
    for (table, column) in columns {
        let is_gone = match column.as_str() {
            "org_id" | "service_org_id" => format!("{column} = {}", org.id),
            "run_id" => "run_id NOT IN (SELECT id FROM runs)".to_owned(),
            "token_id" if table != "audit" => "token_id NOT IN (SELECT id FROM tokens)".to_owned(),
            _ => continue,
        };
        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {table} WHERE {is_gone}"));
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        assert_eq!(left, 0, "{table} still has rows where {is_gone}");
        looked_at += 1;
    }
    assert!(looked_at > 10, "{looked_at}");
    assert_eq!(store.run(fixture.org.id, mine.id).await.unwrap(), mine, "others' rows stay");
    assert!(store.user(eve.id).await.is_ok(), "people stay");
}
