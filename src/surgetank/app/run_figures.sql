-- Figures of approvals for the metrics (app/run_figures.py).

-- name: has_approvals
SELECT to_regclass('surgetank.user_checkpoints') IS NOT NULL

-- name: approvals
-- Open ones, and those that ended within a day.
SELECT status, count(*) AS approvals FROM surgetank.user_checkpoints
WHERE status = 'pending' OR resolved_at > now() - interval '1 day' GROUP BY status

-- name: decisions
-- How long people took to decide within the last day.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at)) AS p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at)) AS p95
FROM surgetank.user_checkpoints
WHERE resolved_at > now() - interval '1 day' AND status IN ('approved', 'edited', 'rejected', 'responded', 'ignored')
