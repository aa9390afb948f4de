{{
    parse_records(
        'raw',
        'flights',
        key=['year', 'month', 'day', 'carrier', 'flight', 'origin', 'record'],
        checks=[
            {
                'when': 'try(make_date(year, month, day)) is null',
                'column': 'day',
                'reason': 'is not a day of that month',
            },
            {
                'when': "record in ('departed', 'arrived') and (dep_time is null or dep_delay is null)",
                'column': 'dep_time',
                'reason': 'is missing in a record that says the flight has departed',
            },
            {
                'when': "record = 'arrived' and (arr_time is null or arr_delay is null or air_time is null)",
                'column': 'arr_time',
                'reason': 'is missing in a record that says the flight has arrived',
            },
        ],
    )
}}
