-- usable from: 0022
-- Database roles of people who read with psql, Metabase or Grafana (app/analysts.py), and whose data each of them sees. The views of the
-- schema surgetank_views test session_user against these rows: SET and SET ROLE don't change it. Views and schema are made with the
-- first analyst, because a schema needs a right that Surgetank has no other use for.
CREATE TABLE surgetank.analysts (
    role_name name PRIMARY KEY,
    everyone boolean NOT NULL,
    made_role boolean NOT NULL,  -- by us: it is dropped with the row
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE surgetank.analyst_users (
    role_name name NOT NULL REFERENCES surgetank.analysts ON DELETE CASCADE,
    user_name text NOT NULL,
    PRIMARY KEY (role_name, user_name)
);
