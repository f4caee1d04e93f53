-- usable from: 0022
-- Pages of the questions that were decided, of all people and of one, are read in their order.
CREATE INDEX user_checkpoints_closed ON surgetank.user_checkpoints (checkpoint_number) WHERE status <> 'pending';
CREATE INDEX user_checkpoints_closed_of ON surgetank.user_checkpoints (owner, checkpoint_number) WHERE status <> 'pending';
CREATE INDEX user_checkpoints_closed_assigned ON surgetank.user_checkpoints (assignee, checkpoint_number)
    WHERE status <> 'pending' AND assignee IS NOT NULL;
CREATE INDEX user_checkpoints_closed_role ON surgetank.user_checkpoints (assigned_role, checkpoint_number)
    WHERE status <> 'pending' AND assigned_role IS NOT NULL;
