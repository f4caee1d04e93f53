-- usable from: 0022
-- Webhooks: what is to be sent when a run ends is written in the transaction that ends it, and sent after it. A delivery keeps
-- the run as it ended, because its row may go with a rollback or a temporary thread; once it is delivered it keeps nothing of it.
-- It names no row of other tables: the thread of a stateless run is deleted before its webhook is sent.
CREATE TABLE surgetank.webhook_deliveries (
    delivery_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq bigint GENERATED ALWAYS AS IDENTITY,
    run_id uuid NOT NULL,
    thread_id text NOT NULL,
    owner text,
    url text NOT NULL,
    host text NOT NULL,
    run jsonb,  -- NULL once it is delivered
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer,  -- of one that was tried again by hand
    tries jsonb NOT NULL DEFAULT '[]',
    due_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);
CREATE INDEX webhook_deliveries_due ON surgetank.webhook_deliveries (due_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_by_seq ON surgetank.webhook_deliveries (seq);
CREATE INDEX webhook_deliveries_of_owner ON surgetank.webhook_deliveries (owner, seq);
CREATE INDEX webhook_deliveries_of_run ON surgetank.webhook_deliveries (run_id);
CREATE INDEX webhook_deliveries_ended ON surgetank.webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- A run has come to its end (not: was given back); also when it waits for people, which is the end of a run for its clients.
CREATE OR REPLACE FUNCTION surgetank.run_ended(run surgetank.runs, ended text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF jsonb_typeof(run.kwargs -> 'webhook') IS DISTINCT FROM 'string' OR run.kwargs ->> 'webhook' = '' THEN RETURN; END IF;
    INSERT INTO surgetank.webhook_deliveries (run_id, thread_id, owner, url, host, run)
    VALUES (run.run_id, run.thread_id, run.owner, run.kwargs ->> 'webhook',
        coalesce(lower(substring(run.kwargs ->> 'webhook' FROM '^[A-Za-z]+://([^/?#]*)')), ''),
        to_jsonb(run) || jsonb_build_object('status', ended));
END
$$;
