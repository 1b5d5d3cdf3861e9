-- air_weights: what a finding of each rule weighs. Every rule that reads it has a row. Made by `air` from `[air.weights]` of the pipeline file.
create table air_weights (
    rule text not null,                 -- name of the rule
    weight double not null              -- reward for one finding, in units of reward
);
