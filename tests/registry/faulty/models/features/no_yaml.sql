select 1 as one  -- # fault: model no_yaml is in the features folder but is no feature view
