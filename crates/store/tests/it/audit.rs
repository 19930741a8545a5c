//! The audit log.

use codegen_store::{AuditFilter, OrgChange};

use crate::Fixture;

#[tokio::test]
async fn the_audit_log_can_be_neither_changed_nor_shortened() {
    let fixture = Fixture::new().await;
    let change = OrgChange { name: Some("Acme & Co".to_owned()), ..OrgChange::default() };
    fixture.store.update_org(fixture.org.id, change, 2).await.unwrap();
    let all = fixture.store.audit_after(fixture.org.id, &AuditFilter::default(), 0, 100).await.unwrap();
    assert_eq!(
        all.iter().map(|entry| entry.action.as_str()).collect::<Vec<_>>(),
        ["organization.created", "member.added", "organization.updated"]
    );
    assert!(all[2].before.as_ref().unwrap().contains("\"Acme\"") && all[2].after.as_ref().unwrap().contains("& Co"));
    for sql in ["UPDATE audit SET action = 'nothing'", "DELETE FROM audit WHERE id = 1"] {
        let refused = fixture.execute(sql).await.unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    assert_eq!(fixture.store.audit_after(fixture.org.id, &AuditFilter::default(), 0, 100).await.unwrap(), all);
}
