{{ parse_records('raw', 'planes', key=['tailnum']) }}
