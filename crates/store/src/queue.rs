//! Which queued run is next: organizations take turns, and within one its users do. Who has as many runs at once as they
//! may is passed over.

use crate::{Result, dialect::Tx};

/// Organizations with queued runs that may have another one at once, in their order, and how many each user may have.
/// The recursive part steps from one to the next in the index, over however many runs.
pub const ORGS: &str = "WITH RECURSIVE waiting (org_id) AS (
         SELECT * FROM (SELECT org_id FROM runs WHERE phase = 'queued' AND org_id > 0 ORDER BY org_id LIMIT 1) AS first
         UNION ALL
         SELECT (SELECT runs.org_id FROM runs WHERE phase = 'queued' AND runs.org_id > waiting.org_id
                 ORDER BY runs.org_id LIMIT 1)
         FROM waiting WHERE waiting.org_id IS NOT NULL
     )
     SELECT orgs.id, org_limits.concurrent_runs_per_user
     FROM waiting CROSS JOIN orgs LEFT JOIN org_limits ON org_limits.org_id = orgs.id
     WHERE orgs.id = waiting.org_id AND (org_limits.concurrent_runs IS NULL OR org_limits.concurrent_runs > (
         SELECT COUNT(*) FROM runs
         WHERE runs.org_id = orgs.id AND phase IN ('preparing', 'running', 'waiting', 'finishing')))
     ORDER BY orgs.claim_turn, orgs.id";

/// The next run of an organization.
pub const RUN: &str = "WITH RECURSIVE waiting (user_id) AS (
         SELECT * FROM (SELECT user_id FROM runs WHERE phase = 'queued' AND org_id = $1 AND user_id > 0
                        ORDER BY user_id LIMIT 1) AS first
         UNION ALL
         SELECT (SELECT runs.user_id FROM runs
                 WHERE phase = 'queued' AND runs.org_id = $1 AND runs.user_id > waiting.user_id
                 ORDER BY runs.user_id LIMIT 1)
         FROM waiting WHERE waiting.user_id IS NOT NULL
     )
     SELECT (SELECT runs.id FROM runs
             WHERE phase = 'queued' AND runs.org_id = $1 AND runs.user_id = waiting.user_id
             ORDER BY queued_at, id LIMIT 1)
     FROM waiting LEFT JOIN user_turns ON user_turns.org_id = $1 AND user_turns.user_id = waiting.user_id
     WHERE waiting.user_id IS NOT NULL AND (CAST($2 AS BIGINT) IS NULL OR $2 > (
         SELECT COUNT(*) FROM runs
         WHERE runs.org_id = $1 AND runs.user_id = waiting.user_id
           AND phase IN ('preparing', 'running', 'waiting', 'finishing')))
     ORDER BY COALESCE(user_turns.turn, 0), waiting.user_id LIMIT 1";

/// The queued run to claim next, in a write that keeps other claims away.
pub async fn next(tx: &mut Tx) -> Result<Option<i64>> {
    let orgs: Vec<(i64, Option<i64>)> = sqlx::query_as(ORGS).fetch_all(&mut tx.conn).await?;
    for (org_id, per_user) in orgs {
        let run_id: Option<i64> =
            sqlx::query_scalar(RUN).bind(org_id).bind(per_user).fetch_optional(&mut tx.conn).await?;
        if run_id.is_some() {
            return Ok(run_id);
        }
    }
    Ok(None)
}

/// Moves an organization and a user to the end of their lines.
pub async fn took_turn(tx: &mut Tx, org_id: i64, user_id: i64) -> Result<()> {
    let turn: i64 = sqlx::query_scalar(
        "UPDATE orgs SET claim_turn = (SELECT MAX(claim_turn) FROM orgs) + 1 WHERE id = $1 RETURNING claim_turn",
    )
    .bind(org_id)
    .fetch_one(&mut tx.conn)
    .await?;
    sqlx::query(
        "INSERT INTO user_turns (org_id, user_id, turn) VALUES ($1, $2, $3)
         ON CONFLICT (org_id, user_id) DO UPDATE SET turn = excluded.turn",
    )
    .bind(org_id)
    .bind(user_id)
    .bind(turn)
    .execute(&mut tx.conn)
    .await?;
    Ok(())
}
