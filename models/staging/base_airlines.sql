{{ parse_records('raw', 'airlines', key=['carrier']) }}
